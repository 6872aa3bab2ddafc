//! What QEMU's end means for the VM. Pure.

use crate::service::ServiceEnd;
use vm_control::Ending;

/// What was seen of QEMU besides its exit status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// The reason in its last SHUTDOWN event (QEMU qapi/run-state.json, `ShutdownCause`).
    pub(super) shutdown: Option<String>,
    /// What it said on its standard error since the guest started; empty for nothing.
    pub(super) last_words: String,
}

/// How the VM ended.
pub(super) fn ending(end: ServiceEnd, signs: &Signs) -> Ending {
    let failed = || Ending::Failed {
        message: if signs.last_words.is_empty() {
            format!("QEMU {end}")
        } else {
            format!("QEMU {end}: {}", signs.last_words)
        },
    };
    let ServiceEnd::Code(code) = end else {
        return failed();
    };
    match signs.shutdown.as_deref() {
        Some("guest-reset") => Ending::Reset,
        Some("guest-shutdown") if code == 0 => Ending::PoweredOff,
        // isa-debug-exit leaves with twice the value and one. Before QEMU 9.2 it did so without an
        // event; but QEMU's own failures, code 1, always say why.
        Some("guest-shutdown") | None if code & 1 == 1 => {
            if signs.shutdown.is_none() && !signs.last_words.is_empty() {
                return failed();
            }
            Ending::DebugExit {
                // As on engine kvm the first byte of what was written.
                code: u8::try_from(code >> 1 & 0xff).unwrap_or(0),
            }
        }
        Some("host-signal" | "host-qmp-quit") => Ending::Stopped,
        _ => failed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(shutdown: Option<&str>, last_words: &str) -> Signs {
        Signs { shutdown: shutdown.map(str::to_owned), last_words: last_words.to_owned() }
    }

    #[test]
    fn a_debug_exit_gives_its_value() {
        for code in [0, 1, 16, 127, 200, 255] {
            let end = ServiceEnd::Code(code << 1 | 1);
            let expected = Ending::DebugExit { code: u8::try_from(code).unwrap() };
            assert_eq!(ending(end, &signs(Some("guest-shutdown"), "")), expected);
            assert_eq!(ending(end, &signs(None, "")), expected);
        }
        let wide = ServiceEnd::Code((0x1234_56c8 << 1) | 1);
        assert_eq!(
            ending(wide, &signs(Some("guest-shutdown"), "")),
            Ending::DebugExit { code: 200 }
        );
    }

    #[test]
    fn power_off_and_reset_are_told_apart() {
        let end = ServiceEnd::Code(0);
        let by = |reason| ending(end, &signs(Some(reason), "a warning"));
        assert_eq!(by("guest-shutdown"), Ending::PoweredOff);
        assert_eq!(by("guest-reset"), Ending::Reset);
        assert_eq!(by("host-signal"), Ending::Stopped);
    }

    #[test]
    fn a_failing_qemu_is_no_debug_exit() {
        let said = ending(ServiceEnd::Code(1), &signs(None, "qemu: no memory"));
        assert_eq!(
            said,
            Ending::Failed { message: "QEMU ended with code 1: qemu: no memory".to_owned() }
        );
        let killed = ending(ServiceEnd::Signal(11), &signs(None, ""));
        assert_eq!(killed, Ending::Failed { message: "QEMU was killed by signal 11".to_owned() });
    }
}
