//! The loop: one thread that waits for the host and for the display server, and does what each says.
//!
//! The order within a turn keeps the way from a key to its pixels short: first what the host says, then
//! what the server says, then all that is due, each without waiting for the other.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use proto::v1::{Configure, WindowsMode, from_host};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use window_link::latency;

use super::link::{Ended, Link};
use super::mailbox::Mailbox;
use super::screen::{Capture, Lost, Screen};
use super::telling::Teller;

/// Messages of the host that are handled before the server has its turn.
const TURN: usize = 512;

/// Serves the hosts whose connections come through the mailbox, one after the other, until the display
/// server is gone.
pub fn run(screen: &mut dyn Screen, mailbox: &Arc<Mailbox>, memory: u64) -> Lost {
    let mut teller = Teller::new(memory);
    let mut more = false;
    loop {
        match turn(screen, mailbox, &mut teller, more) {
            Ok(again) => more = again,
            Err(lost) => return lost,
        }
    }
}

/// Waits, unless there is more to do, and does what has come.
fn turn(
    screen: &mut dyn Screen,
    mailbox: &Mailbox,
    teller: &mut Teller,
    more: bool,
) -> Result<bool, Lost> {
    let ready = wait(screen, mailbox, teller, more).map_err(|error| Lost(error.to_string()))?;
    if ready.bell
        && let Some(stream) = mailbox.take()
    {
        if teller.link().is_some() {
            tracing::info!("another connection to the host takes the place of this one");
            lose(screen, mailbox, teller)?;
        }
        match Link::new(stream) {
            Ok(link) => teller.connected(link),
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be used");
                mailbox.over();
            }
        }
    }
    let mut again = false;
    if ready.host {
        match hear(screen, teller)? {
            Ok(full) => again |= full,
            Err(ended) => {
                tracing::info!(%ended, "the connection for windows is over");
                lose(screen, mailbox, teller)?;
            }
        }
    }
    again |= screen.attend(teller)?;
    screen.refresh(teller)?;
    again |= present(screen, teller)?;
    again |= screen.flush()?;
    latency::pass("heard", "injected");
    if let Some(link) = teller.link()
        && let Err(ended) = link.flush()
    {
        tracing::info!(%ended, "the connection for windows is over");
        lose(screen, mailbox, teller)?;
    }
    latency::end("captured", "sent");
    Ok(again)
}

fn lose(screen: &mut dyn Screen, mailbox: &Mailbox, teller: &mut Teller) -> Result<(), Lost> {
    teller.disconnected();
    mailbox.over();
    screen.release()
}

struct Ready {
    bell: bool,
    host: bool,
}

fn wait(
    screen: &dyn Screen,
    mailbox: &Mailbox,
    teller: &mut Teller,
    more: bool,
) -> io::Result<Ready> {
    let readable = PollFlags::IN;
    let writes = teller.link().is_some_and(|link| link.waits());
    let link = teller.link().map(|link| {
        let flags = if writes { readable | PollFlags::OUT } else { readable };
        (link.descriptor(), flags)
    });
    let server = screen.descriptor();
    let bell = mailbox.bell();
    let mut watched =
        vec![PollFd::from_borrowed_fd(bell, readable), PollFd::from_borrowed_fd(server, readable)];
    if let Some((descriptor, flags)) = link {
        watched.push(PollFd::from_borrowed_fd(descriptor, flags));
    }
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let deadline = screen.deadline();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut watched, if more { Some(&now) } else { left.as_ref() }) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let said = |n: usize| watched.get(n).is_some_and(|watched| !watched.revents().is_empty());
    Ok(Ready { bell: said(0), host: said(2) })
}

/// Handles what the host has sent, a turn of it at most; whether that was all is not known then.
fn hear(screen: &mut dyn Screen, teller: &mut Teller) -> Result<Result<bool, Ended>, Lost> {
    // Of several configures of a window that have come together the last alone counts: programs that draw
    // slowly would otherwise trail behind the pointer.
    let mut configures: Vec<Configure> = Vec::new();
    let mut handled = 0;
    let full = loop {
        let Some(link) = teller.link() else { break false };
        let message = match link.take() {
            Ok(Some(message)) => message.message,
            Ok(None) if handled >= TURN => break true,
            Ok(None) => match link.read() {
                Ok(true) => continue,
                Ok(false) => break false,
                Err(ended) => {
                    obey_all(screen, teller, &mut configures)?;
                    return Ok(Err(ended));
                }
            },
            Err(ended) => return Ok(Err(ended)),
        };
        handled += 1;
        if matches!(&message, Some(from_host::Message::Key(key)) if key.pressed) {
            latency::begin("heard");
        }
        let Some(message) = message else {
            teller.refusals.note("messages of the host without content");
            continue;
        };
        if !teller.greeted() {
            let from_host::Message::Hello(hello) = message else { return Ok(Err(Ended::NoHello)) };
            if hello.version != window_link::VERSION {
                return Ok(Err(Ended::Version(hello.version)));
            }
            tracing::info!(host = hello.program, "windows are told to the host");
            teller.greet(hello.window_memory);
            screen.tell_all(teller)?;
            continue;
        }
        match message {
            from_host::Message::Configure(configure) => {
                match configures.iter_mut().find(|held| held.window == configure.window) {
                    Some(held) if held.generation >= configure.generation => {}
                    Some(held) => *held = configure,
                    None => configures.push(configure),
                }
                continue;
            }
            from_host::Message::Ack(ack) => {
                teller.acknowledged(&ack);
                continue;
            }
            _ => {}
        }
        obey_all(screen, teller, &mut configures)?;
        match message {
            from_host::Message::Resync(_) => {
                teller.tell_again();
                screen.tell_all(teller)?;
            }
            from_host::Message::Ping(ping) => {
                screen.settle()?;
                teller.pong(ping.number);
            }
            from_host::Message::Mode(mode) => {
                teller.desktop = mode.mode() == WindowsMode::Desktop;
                screen.obey(from_host::Message::Mode(mode), teller)?;
            }
            order => screen.obey(order, teller)?,
        }
    };
    obey_all(screen, teller, &mut configures)?;
    Ok(Ok(full))
}

fn obey_all(
    screen: &mut dyn Screen,
    teller: &mut Teller,
    configures: &mut Vec<Configure>,
) -> Result<(), Lost> {
    for configure in configures.drain(..) {
        if teller.configure(&configure) {
            screen.obey(from_host::Message::Configure(configure), teller)?;
        } else {
            tracing::debug!(window = configure.window, "a configure is out of date");
        }
    }
    Ok(())
}

/// Copies and presents what is due. True when there may be more at once.
fn present(screen: &mut dyn Screen, teller: &mut Teller) -> Result<bool, Lost> {
    let due = teller.due();
    if due.is_empty() {
        return Ok(false);
    }
    let began = Instant::now();
    let captures: Vec<Capture<'_>> = due
        .iter()
        .filter_map(|due| {
            let span = teller.span(due.window)?;
            let (window, width) = (due.window, due.width);
            Some(Capture { window, span, width, top: due.top, rows: due.rows })
        })
        .collect();
    let there = screen.capture(&captures)?;
    latency::pass("damaged", "captured");
    let done: Vec<(u32, bool)> = captures.iter().map(|capture| capture.window).zip(there).collect();
    for (window, there) in done {
        match there {
            true => teller.present(window),
            // The window is going away or has another size: its next size says what is to be copied.
            false => teller.unseen(window),
        }
    }
    tracing::trace!(windows = due.len(), elapsed = ?began.elapsed(), "presented");
    Ok(true)
}
