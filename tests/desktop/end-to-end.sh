#!/bin/bash
# Guest and desktop as a person has them: applications in the menu, files opened with them, clipboard both ways,
# folders shared while the VM runs, with the agents killed in the middle and updated by a real package manager. Run
# on the host, with a display in $DISPLAY and the VM running; its guest has a user `guest` in session with a display of
# its own, and these programs: xclip, l3afpad, git, notify-send. Every check is made by a program that is not ours.
#
# end-to-end.sh VM
set -uo pipefail
vm=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
hypervisor=macrohard-hypervisor
data=${XDG_DATA_HOME:-$HOME/.local/share}

step() { echo "* $*"; }
fail() {
    echo "FAILED: $*"
    $hypervisor status "$vm"
    $hypervisor logs "$vm" | tail -n 20
    exit 1
}
# wait_for SECONDS WHAT COMMAND...: waits until a command succeeds; three times as long as it should take at most, for
# machines that have more to do.
wait_for() {
    local end=$((SECONDS + 3 * $1)) what=$2
    shift 2
    until "$@" >"$work/last" 2>&1; do
        [ $SECONDS -lt $end ] || fail "waited in vain for: $what; the last said: $(cat "$work/last")"
        sleep 0.5
    done
}
# guest PROGRAM...: in the guest, as its user.
guest() { $hypervisor exec --wait 120 "$vm" -- "$@"; }
root() { $hypervisor exec --wait 120 --user root "$vm" -- "$@"; }
# in_session COMMAND: a shell's command in the guest with its display. What it leaves behind, as xclip does, needs a
# session of its own and none of the call's outputs.
in_session() {
    guest sh -c 'export DISPLAY=:0; eval "$(systemctl --user show-environment 2>/dev/null | sed -n "s/^\(DISPLAY\|XAUTHORITY\)=/export \1=/p")"; '"$1"
}
# runs PATTERN: a process of the guest has this command line.
runs() { guest pgrep -u guest -f -- "$1"; }
# gone COMMAND...: the command fails.
gone() { ! "$@"; }
# host_has TEXT: what a paste on the host gives.
host_has() { [ "$(timeout 20 xclip -selection clipboard -o 2>/dev/null)" = "$1" ]; }
guest_has() { [ "$(in_session 'timeout 20 xclip -selection clipboard -o')" = "$1" ]; }

step "the agents"
wait_for 300 "both agents" sh -c "$hypervisor status $vm | grep '^agents' | grep system | grep -q guest"

step "applications in the menu"
wait_for 120 "the editor in the list" sh -c "$hypervisor apps $vm | grep -q l3afpad"
launcher() { find "$data/applications" -name "org.macrohard.$vm.*l3afpad*.desktop" 2>/dev/null | grep .; }
wait_for 60 "the editor's launcher" launcher
desktop-file-validate "$data"/applications/org.macrohard.*.desktop || fail "a launcher is not valid"
icon() { find "$data/icons" -name "org.macrohard.$vm.*l3afpad*" | grep .; }
wait_for 60 "the editor's icon" icon
root sh -c 'printf "[Desktop Entry]\nType=Application\nName=Made later\nExec=true\n" >/usr/share/applications/later.desktop'
wait_for 60 "an application that was installed" sh -c "$hypervisor apps $vm | grep -q 'Made later'"
root rm /usr/share/applications/later.desktop
wait_for 60 "its end" sh -c "! $hypervisor apps $vm | grep -q 'Made later'"

step "gtk-launch starts it in the guest"
gtk-launch "$(basename "$(launcher)" .desktop)" || fail "gtk-launch"
wait_for 120 "the editor in the guest" runs l3afpad
guest pkill l3afpad
wait_for 30 "its end" gone runs l3afpad

step "text from the host"
printf 'of the host: grüße' | xclip -selection clipboard -i >/dev/null 2>&1
wait_for 60 "the host's text in the guest" guest_has 'of the host: grüße'
step "text from the guest"
in_session "printf 'of the guest: ça va' | setsid xclip -selection clipboard -i >/dev/null 2>&1"
wait_for 60 "the guest's text on the host" host_has 'of the guest: ça va'
step "a mebibyte of text"
head -c 786432 /dev/urandom | base64 -w 0 >"$work/large"
xclip -selection clipboard -i "$work/large" >/dev/null 2>&1
sum=$(sha256sum <"$work/large")
large_there() { [ "$(in_session 'timeout 60 xclip -selection clipboard -o | sha256sum')" = "$sum" ]; }
wait_for 120 "a mebibyte in the guest" large_there
step "policy"
$hypervisor clipboard "$vm" --policy to-guest || fail "clipboard --policy"
printf 'for both' | xclip -selection clipboard -i >/dev/null 2>&1
wait_for 60 "text to the guest" guest_has 'for both'
in_session "printf 'kept inside' | setsid xclip -selection clipboard -i >/dev/null 2>&1"
sleep 3
host_has 'kept inside' && fail "the policy does not hold the guest's text back"
$hypervisor clipboard "$vm" --policy both || fail "clipboard --policy both"

step "a folder shared while the VM runs"
mkdir "$work/shared"
cp -a /etc/apt "$work/shared/tree" 2>/dev/null || cp -a /etc/default "$work/shared/tree"
ln -s /etc/shadow "$work/shared/outside"
$hypervisor share add "$vm" "$work/shared" --tag lively || fail "share add"
wait_for 60 "the share" guest test -d Host/lively/tree
guest sh -c 'cd ~/Host/lively && tar -c tree' | tar -x -C "$work" || fail "reading the share"
diff -r "$work/shared/tree" "$work/tree" || fail "the trees differ"
guest sh -c 'cat ~/Host/lively/outside' 2>/dev/null | grep -q '^root:[*!$]' && [ "$(guest id -u)" != 0 ] && fail "a link led outside"
guest sh -c 'cd ~/Host/lively && git init -q repository && cd repository && echo text >file && git add file && git -c user.name=g -c user.email=g@example.org commit -q -m one && flock file true' ||
    fail "git and flock on the share"
git -c safe.directory='*' -C "$work/shared/repository" fsck --no-progress || fail "the guest's repository is damaged on the host"
[ "$(stat -c %u "$work/shared/repository/file")" = "$(id -u)" ] || fail "the guest's file has another owner"

step "files opened with an application of the guest"
echo "in a share" >"$work/shared/in share.txt"
$hypervisor launch "$vm" l3afpad "$work/shared/in share.txt" || fail "launch with a file of a share"
wait_for 120 "the editor with the file" runs 'l3afpad .*Host/lively/in share.txt'
guest pkill l3afpad
mkdir "$work/elsewhere" && echo "through a portal" >"$work/elsewhere/note.txt" && echo secret >"$work/elsewhere/secret.txt"
$hypervisor launch "$vm" l3afpad "$work/elsewhere/note.txt" || fail "launch with a file outside"
wait_for 120 "the editor with the other file" runs 'l3afpad .*Host/.*/note.txt'
guest sh -c 'cat ~/Host/*/note.txt' | grep -q "through a portal" || fail "the file is not there"
guest sh -c 'cat ~/Host/*/secret.txt' 2>/dev/null && fail "the portal shows another file"
guest pkill l3afpad

step "files copied on the host"
home=$(guest sh -c 'echo "$HOME"')
# copied HOST|GUEST TARGET: what a paste there gives for a target, without carriage returns.
copied() {
    case $1 in
    host) timeout 20 xclip -selection clipboard -o -t "$2" 2>/dev/null ;;
    guest) in_session "timeout 20 xclip -selection clipboard -o -t $2" ;;
    esac | tr -d '\r'
}
copied_is() { [ "$(copied "$1" "$2")" = "$3" ]; }
printf 'file://%s/shared/in%%20share.txt\r\n' "$work" | xclip -selection clipboard -t text/uri-list -i >/dev/null 2>&1
wait_for 60 "a file of the share" copied_is guest text/uri-list "file://$home/Host/lively/in%20share.txt"
printf 'cut\nfile://%s/elsewhere/note.txt' "$work" | xclip -selection clipboard -t x-special/gnome-copied-files -i >/dev/null 2>&1
# The guest may read it, and is told so: it is copied, not cut.
through_portal() {
    local list
    list=$(copied guest x-special/gnome-copied-files) && [ "${list%%$'\n'*}" = copy ] || return 1
    guest cat "${list#*file://}" | grep -q 'through a portal'
}
wait_for 60 "a file outside" through_portal
step "files copied in the guest"
in_session "printf 'file://%s/Host/lively/repository/file\\r\\n' '$home' | setsid xclip -selection clipboard -t text/uri-list -i >/dev/null 2>&1"
wait_for 60 "a file of the share on the host" copied_is host text/uri-list "file://$work/shared/repository/file"
in_session "printf 'file:///etc/hostname\\r\\n' | setsid xclip -selection clipboard -t text/uri-list -i >/dev/null 2>&1"
wait_for 60 "nothing of a file that the host does not see" copied_is host text/uri-list ""

step "the agents are killed in the middle"
root sh -c 'pkill -KILL -x macrohard-guest' 2>/dev/null
wait_for 120 "both agents again" sh -c "$hypervisor status $vm | grep '^agents' | grep system | grep -q guest"
wait_for 120 "the share again" guest test -d Host/lively/tree
printf 'after the kill' | xclip -selection clipboard -i >/dev/null 2>&1
wait_for 60 "text to the guest" guest_has 'after the kill'
in_session "printf 'and back' | setsid xclip -selection clipboard -i >/dev/null 2>&1"
wait_for 60 "text from the guest" host_has 'and back'

step "the daemon is killed"
kill -KILL "$($hypervisor daemon status --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')" || fail "no daemon"
wait_for 60 "both agents" sh -c "$hypervisor status $vm | grep '^agents' | grep system | grep -q guest"
guest test -d Host/lively/tree || fail "the share is gone with the daemon"
printf 'after the daemon' | xclip -selection clipboard -i >/dev/null 2>&1
wait_for 60 "text to the guest" guest_has 'after the daemon'

updated() {
    step "the agent is updated by the guest's package manager"
    package=$(dirname "$(readlink -f "$(command -v $hypervisor)")")/macrohard-guest-agent.deb
    new=$(dpkg-deb -f "$package" Version) || fail "no package of the agent beside the programs"
    installed() { root dpkg-query -W -f '${Status} ${Version}' macrohard-guest-agent; }
    has_version() { [ "$(installed)" = "install ok installed $1" ]; }
    # The guest gets the same agent as an older package, so that its dpkg has an upgrade to do.
    dpkg-deb -R "$package" "$work/older" && sed -i 's/^Version: .*/Version: 0.0.1~older/' "$work/older/DEBIAN/control" &&
        dpkg-deb --root-owner-group -b "$work/older" "$work/older.deb" >/dev/null || fail "an older package"
    root sh -c 'cat >/run/older.deb' <"$work/older.deb" || fail "the older package's way"
    # In a unit of its own: installing it ends the agent that runs this.
    root systemd-run --quiet --collect --unit=older dpkg --force-downgrade --install /run/older.deb || fail "the older package's installation"
    # Once the package manager is done with it: another may not run beside it.
    is_older() {
        [ "$(root sh -c 'systemctl is-active --quiet older || dpkg-query -W -f "\${Status} \${Version}" macrohard-guest-agent')" = "install ok installed 0.0.1~older" ]
    }
    wait_for 120 "the older package" is_older
    wait_for 120 "its agents" sh -c "$hypervisor status $vm | grep '^agents' | grep system | grep -q guest"
    before=$(root pidof -s macrohard-guest-agent)
    $hypervisor agent update "$vm" --force --wait 600 || fail "agent update"
    wait_for 120 "the new package" has_version "$new"
    [ -z "$(root dpkg --audit)" ] || fail "the installation is not complete"
    [ "$(root pidof -s macrohard-guest-agent)" != "$before" ] || fail "the old agent runs on"
    wait_for 120 "both agents" sh -c "$hypervisor status $vm | grep '^agents' | grep system | grep -q guest"
    wait_for 60 "the share" guest test -d Host/lively/tree
}
if root test -d /run/systemd/system; then
    updated
else
    echo "SKIPPED: the update by a package manager: this guest has no systemd"
fi

step "the share is taken back"
$hypervisor share remove "$vm" lively || fail "share remove"
wait_for 60 "its end" gone guest test -d Host/lively/tree

step "a URL"
$hypervisor integration "$vm" --open-url off || fail "integration"
guest macrohard-guest-agent open-url https://example.org/ && fail "a URL was opened against the policy"
$hypervisor integration "$vm" --open-url allow || fail "integration"
printf '#!/bin/sh\necho "$@" >%s\n' "$work/opened" >"$work/browser" && chmod +x "$work/browser"
echo "all of it held"
