//! What messages lead to, one by one and at random.

use super::*;
use proptest::prelude::*;
use proto::v1::{MoveResizeDirection, WindowKind};
use witness::Witness;

#[path = "witness.rs"]
mod witness;

const MEMORY: u64 = 1 << 20;

fn model() -> Model {
    let mut model = Model::new("vm", MEMORY);
    let rect = Rect { x: 0, y: 0, width: 1000, height: 800 };
    model.set_screens(&[Screen { rect, scale: 100 }]);
    hear(
        &mut model,
        from_guest::Message::Hello(v1::WindowsHello { version: 1, ..Default::default() }),
    );
    model
}

fn hear(model: &mut Model, message: from_guest::Message) {
    model.hear(Untrusted::new(FromGuest { message: Some(message) })).unwrap();
}

fn rectangle(x: i32, y: i32, width: u32, height: u32) -> v1::Rectangle {
    v1::Rectangle { x, y, width, height }
}

fn window(id: u32, generation: u64) -> v1::Window {
    v1::Window {
        id,
        generation,
        geometry: Some(rectangle(100, 100, 200, 150)),
        kind: WindowKind::Normal.into(),
        ..Default::default()
    }
}

fn tell(model: &mut Model, window: v1::Window) -> Vec<Act> {
    hear(model, from_guest::Message::Window(window));
    model.acts()
}

fn placed(model: &mut Model, window: u32, native: Rect) -> Vec<Act> {
    let frame = Insets::default();
    model.see(Seen::Placed { window, native, state: State::default(), frame, hidden: false });
    model.acts()
}

fn opened(acts: &[Act]) -> &View {
    match acts {
        [Act::Open(_, view), ..] => view,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_host_moved_stays_until_the_guest_has_done_it() {
    let mut model = model();
    let view = opened(&tell(&mut model, window(1, 1))).clone();
    assert_eq!(view.native(), Rect { x: 98, y: 98, width: 204, height: 154 });
    let moved = Rect { x: 300, y: 200, width: 404, height: 304 };
    let acts = placed(&mut model, 1, moved);
    let [Act::Tell(from_host::Message::Configure(told)), Act::Change(1, view)] = &acts[..] else {
        panic!("{acts:?}");
    };
    assert_eq!(told.geometry, Some(rectangle(302, 202, 400, 300)));
    assert_eq!(view.native(), moved);
    // Its answer to nothing: another title, the old place.
    let late = v1::Window { title: "late".into(), ..window(1, 2) };
    let acts = tell(&mut model, late);
    let [Act::Change(1, view)] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!((view.native(), view.title.as_str()), (moved, "[vm] late"));
    let done = v1::Window { configured: told.generation, ..window(1, 3) };
    let acts = tell(&mut model, done);
    let [Act::Change(1, view)] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!(view.native(), Rect { x: 98, y: 98, width: 204, height: 154 });
    // An old record of this window is none.
    assert_eq!(tell(&mut model, window(1, 2)), []);
    assert_eq!(model.refusals().of(Refusal::Generation), 1);
}

#[test]
fn nothing_is_told_twice() {
    let mut model = model();
    let native = opened(&tell(&mut model, window(1, 1))).native();
    assert_eq!(placed(&mut model, 1, native).len(), 1);
    assert_eq!(placed(&mut model, 1, native), []);
    assert_eq!(tell(&mut model, window(1, 2)), []);
}

#[test]
fn a_circle_of_owners_is_cut_and_late_owners_are_found() {
    let mut model = model();
    let owner =
        |id, generation, transient_for| v1::Window { transient_for, ..window(id, generation) };
    assert_eq!(opened(&tell(&mut model, owner(1, 1, 2))).transient_for, None);
    let acts = tell(&mut model, owner(2, 1, 0));
    let [Act::Open(2, _), Act::Change(1, view)] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!(view.transient_for, Some(2));
    let acts = tell(&mut model, owner(2, 2, 1));
    assert!(
        !acts.iter().any(|act| matches!(act, Act::Change(2, view) if view.transient_for.is_some()))
    );
    assert_eq!(model.refusals().of(Refusal::Circle), 1);
}

#[test]
fn menus_cover_a_monitor_neither_alone_nor_together() {
    let mut model = model();
    let menu = |id, generation, geometry| v1::Window {
        geometry: Some(geometry),
        override_redirect: true,
        ..window(id, generation)
    };
    assert_eq!(tell(&mut model, menu(1, 1, rectangle(0, 0, 1000, 800))), []);
    assert_eq!(model.refusals().of(Refusal::Cover), 1);
    opened(&tell(&mut model, menu(2, 1, rectangle(0, 0, 1000, 400))));
    assert_eq!(tell(&mut model, menu(3, 1, rectangle(0, 400, 1000, 400))), []);
    // One that grows too large is closed, and comes back when it has shrunk.
    assert_eq!(tell(&mut model, menu(2, 2, rectangle(0, 0, 1000, 790))), [Act::Shut(2)]);
    opened(&tell(&mut model, menu(2, 3, rectangle(0, 0, 1000, 100))));
    // Of one that is not shown nothing is told, whatever else it wishes.
    let wish = v1::WindowState { fullscreen: true, ..Default::default() };
    let wish = v1::Window { state: Some(wish), ..menu(1, 2, rectangle(0, 0, 1000, 800)) };
    assert_eq!(tell(&mut model, wish), []);
}

#[test]
fn a_present_is_answered_once_and_only_one_is_taken_at_a_time() {
    let mut model = model();
    tell(&mut model, window(1, 1));
    let present = |sequence, damage| {
        let (stride, width, height) = (40, 10, 10);
        let present = v1::Present {
            window: 1,
            sequence,
            stride,
            width,
            height,
            damage,
            ..Default::default()
        };
        from_guest::Message::Present(present)
    };
    hear(&mut model, present(1, vec![rectangle(1, 1, 2, 2)]));
    let acts = model.acts();
    // The first time all of it.
    let whole = Area { x: 0, y: 0, width: 10, height: 10 };
    assert!(matches!(&acts[..], [Act::Paint { damage, .. }] if *damage == [whole]), "{acts:?}");
    hear(&mut model, present(2, Vec::new()));
    assert_eq!(model.acts(), []);
    assert_eq!(model.refusals().of(Refusal::PresentFlood), 1);
    let ack = |sequence| Act::Tell(from_host::Message::Ack(v1::PresentAck { window: 1, sequence }));
    model.painted(1, 1);
    model.painted(1, 1);
    assert_eq!(model.acts(), [ack(1)]);
    hear(&mut model, present(1, Vec::new()));
    assert_eq!(model.refusals().of(Refusal::Sequence), 1);
    hear(&mut model, present(3, vec![rectangle(8, 8, 9, 9), rectangle(20, 20, 1, 1)]));
    let acts = model.acts();
    let part = Area { x: 8, y: 8, width: 2, height: 2 };
    assert!(matches!(&acts[..], [Act::Paint { damage, .. }] if *damage == [part]), "{acts:?}");
    model.painted(1, 3);
    model.acts();
    hear(&mut model, present(4, vec![rectangle(0, 0, 10, 10); limits::DAMAGE]));
    let acts = model.acts();
    assert!(matches!(&acts[..], [Act::Paint { damage, .. }] if *damage == [whole]), "{acts:?}");
}

#[test]
fn windows_cannot_make_the_host_keep_more_than_the_memory_has() {
    let mut model = model();
    let mut acts = Vec::new();
    for id in 1..=3 {
        acts.extend(tell(&mut model, window(id, 1)));
        // The same half of the memory each time.
        let (stride, width, height) = (2048, 512, 256);
        let present =
            v1::Present { window: id, sequence: 1, stride, width, height, ..Default::default() };
        hear(&mut model, from_guest::Message::Present(present));
    }
    acts.extend(model.acts());
    let paints = acts.iter().filter(|act| matches!(act, Act::Paint { .. })).count();
    assert_eq!((paints, model.refusals().of(Refusal::Pixels)), (2, 1));
}

#[test]
fn a_guest_moves_windows_and_takes_the_keyboard_only_after_the_user() {
    let mut model = model();
    tell(&mut model, window(1, 1));
    let wish = v1::MoveResize { window: 1, direction: MoveResizeDirection::Move.into(), button: 1 };
    hear(&mut model, from_guest::Message::MoveResize(wish));
    hear(&mut model, from_guest::Message::Raised(v1::WindowRaised { window: 1, activate: true }));
    let acts = model.acts();
    let [Act::Change(1, view)] = &acts[..] else { panic!("{acts:?}") };
    assert!(view.state.demands_attention);
    model.see(Seen::Focus(Some(1)));
    model.see(Seen::Button { window: 1, button: 1, pressed: true, time: 0 });
    model.acts();
    hear(&mut model, from_guest::Message::MoveResize(wish));
    hear(&mut model, from_guest::Message::Raised(v1::WindowRaised { window: 1, activate: true }));
    assert_eq!(model.acts(), [Act::MoveResize(1, MoveResizeDirection::Move), Act::Activate(1)]);
}

#[test]
fn the_pointer_is_told_in_the_guests_pixels_and_not_over_the_border() {
    let mut model = model();
    let shadow = v1::Extents { left: 10, right: 10, top: 20, bottom: 20 };
    tell(&mut model, v1::Window { shadow: Some(shadow), undecorated: true, ..window(1, 1) });
    let motion = |x, y| Seen::Motion { window: 1, x: x * 256, y: y * 256, time: 0 };
    model.see(motion(1, 50));
    assert_eq!(model.acts(), []);
    model.see(motion(2, 12));
    let told = v1::PointerMotion { window: 1, x: 10 * 256, y: 20 * 256, time: 0 };
    assert_eq!(model.acts(), [Act::Tell(from_host::Message::Motion(told))]);
    // A drag goes on beyond it.
    model.see(Seen::Button { window: 1, button: 1, pressed: true, time: 0 });
    model.see(motion(-5, 12));
    let acts = model.acts();
    assert!(
        matches!(&acts[..], [_, Act::Tell(from_host::Message::Motion(told))] if told.x == 3 * 256)
    );
}

#[test]
fn a_window_cannot_make_its_border_invisible() {
    let mut model = model();
    for (id, told, shown) in [(1, 1, 49_152), (2, 49_151, 49_152), (3, 60_000, 60_000), (4, 0, 0)] {
        let acts = tell(&mut model, v1::Window { opacity: told, ..window(id, 1) });
        assert_eq!(opened(&acts).opacity, shown);
    }
    assert_eq!(model.refusals().of(Refusal::Opacity), 2);
}

fn state(fullscreen: bool, above: bool, minimized: bool) -> v1::WindowState {
    v1::WindowState { fullscreen, above, minimized, ..Default::default() }
}

/// Like `tell`, having done what the host has told last.
fn carry_out(model: &mut Model, mut window: v1::Window, acts: &[Act]) -> Vec<Act> {
    for act in acts {
        if let Act::Tell(from_host::Message::Configure(told)) = act
            && told.window == window.id
        {
            window.configured = told.generation;
        }
    }
    tell(model, window)
}

fn press(model: &mut Model, window: u32) {
    for pressed in [true, false] {
        model.see(Seen::Key { window, code: 30, pressed, time: 0 });
    }
    model.acts();
}

fn configured(acts: &[Act]) -> Option<&v1::Configure> {
    acts.iter().find_map(|act| match act {
        Act::Tell(from_host::Message::Configure(told)) => Some(told),
        _ => None,
    })
}

#[test]
fn the_whole_screen_is_had_only_after_the_user_and_not_again_once_taken_back() {
    let mut model = model();
    let all = rectangle(0, 0, 1000, 800);
    let wish = |generation, configured| v1::Window {
        state: Some(state(true, true, false)),
        geometry: Some(all),
        configured,
        ..window(1, generation)
    };
    // Neither when it appears nor later, and the guest is told, once.
    let first = v1::Window { state: Some(state(true, true, false)), ..window(1, 1) };
    let view = opened(&tell(&mut model, first)).clone();
    assert!(!view.state.fullscreen && !view.state.above);
    let acts = tell(&mut model, wish(2, 0));
    let told = *configured(&acts).unwrap();
    assert_eq!(told.geometry, Some(rectangle(100, 100, 200, 150)));
    assert!(!told.state.unwrap().fullscreen && !told.state.unwrap().above);
    assert_eq!(tell(&mut model, wish(3, told.generation)), []);
    // The keyboard alone is not the user's word.
    model.see(Seen::Focus(Some(1)));
    model.acts();
    let acts = carry_out(&mut model, window(1, 4), &acts);
    assert_eq!(acts, []);
    let acts = tell(&mut model, wish(5, told.generation));
    let told = *configured(&acts).unwrap();
    assert!(!told.state.unwrap().fullscreen);
    press(&mut model, 1);
    let acts = tell(&mut model, wish(6, told.generation));
    assert!(
        matches!(&acts[..], [Act::Change(1, view)] if view.state.fullscreen && view.state.above),
        "{acts:?}"
    );
    // The user takes it back: keys of the chord are heard before.
    press(&mut model, 1);
    let acts = placed(&mut model, 1, Rect { x: 98, y: 98, width: 204, height: 154 });
    let told = *configured(&acts).unwrap();
    let acts = tell(&mut model, wish(7, told.generation));
    assert_eq!(acts, []);
    press(&mut model, 1);
    let acts = tell(&mut model, wish(8, told.generation));
    assert!(matches!(&acts[..], [Act::Change(1, view)] if view.state.fullscreen), "{acts:?}");
    // What takes no keys could not be got out of.
    let deaf = v1::Window { no_focus: true, ..wish(9, told.generation) };
    let acts = tell(&mut model, deaf);
    assert!(acts.iter().any(|act| matches!(act, Act::Change(1, view) if !view.state.fullscreen)));
    assert!(model.refusals().of(Refusal::Uncalled) >= 5);
}

#[test]
fn a_window_appears_behind_unless_the_user_is_there_or_has_launched_it() {
    let mut model = model();
    assert!(!opened(&tell(&mut model, window(1, 1))).comes_forward);
    model.launched();
    let menu = v1::Window { override_redirect: true, ..window(2, 1) };
    opened(&tell(&mut model, menu));
    assert!(opened(&tell(&mut model, window(3, 1))).comes_forward);
    // One for each launch, and not for ever.
    assert!(!opened(&tell(&mut model, window(4, 1))).comes_forward);
    model.launched();
    model.pass(Duration::from_secs(61));
    assert!(!opened(&tell(&mut model, window(5, 1))).comes_forward);
    model.see(Seen::Focus(Some(3)));
    model.acts();
    assert!(opened(&tell(&mut model, window(6, 1))).comes_forward);
    model.see(Seen::Focus(None));
    model.acts();
    // The same window anew is as a new one.
    let acts = tell(&mut model, v1::Window { alpha: true, ..window(6, 2) });
    assert!(matches!(&acts[..], [Act::Reopen(6, view)] if !view.comes_forward), "{acts:?}");
}

#[test]
fn a_minimized_window_asks_to_be_looked_at_instead_of_coming_back() {
    let mut model = model();
    tell(&mut model, v1::Window { state: Some(state(false, false, true)), ..window(1, 1) });
    let acts = tell(&mut model, window(1, 2));
    let [Act::Tell(_), Act::Change(1, view)] = &acts[..] else { panic!("{acts:?}") };
    assert!(view.state.minimized && view.state.demands_attention);
    tell(&mut model, window(2, 1));
    model.see(Seen::Focus(Some(2)));
    press(&mut model, 2);
    let acts = carry_out(&mut model, window(1, 3), &acts);
    let [Act::Change(1, view)] = &acts[..] else { panic!("{acts:?}") };
    assert!(!view.state.minimized);
}

#[test]
fn a_flood_of_wishes_for_the_keyboard_is_one_for_each_press() {
    let mut model = model();
    for id in 1..=3 {
        tell(&mut model, window(id, 1));
    }
    let raise = |model: &mut Model| {
        for window in [1, 2, 3, 1, 2] {
            let raised = v1::WindowRaised { window, activate: true };
            hear(model, from_guest::Message::Raised(raised));
        }
        let acts = model.acts();
        acts.into_iter().filter(|act| matches!(act, Act::Activate(_) | Act::Raise(_))).count()
    };
    model.see(Seen::Focus(Some(1)));
    model.acts();
    assert_eq!(raise(&mut model), 0);
    press(&mut model, 1);
    assert_eq!((raise(&mut model), raise(&mut model)), (1, 0));
    press(&mut model, 1);
    model.see(Seen::Focus(None));
    model.acts();
    assert_eq!(raise(&mut model), 0);
    assert!(model.refusals().of(Refusal::Uncalled) >= 19);
}

#[test]
fn what_has_no_title_bar_stays_on_the_monitor_with_border_and_label() {
    let mut model = model();
    let screen = Rect { x: 0, y: 0, width: 1000, height: 800 };
    let inside = |view: &View| view.label && screen.common(&view.native()) == Some(view.native());
    let shadow = Some(v1::Extents { left: 30, right: 30, top: 30, bottom: 30 });
    let large = Some(rectangle(-100, -100, 1200, 1000));
    for (id, kind, undecorated, shadow) in [
        (1, WindowKind::Normal, true, None),
        (2, WindowKind::Normal, true, shadow),
        (3, WindowKind::Splash, false, None),
        (4, WindowKind::Utility, false, None),
    ] {
        let told =
            v1::Window { kind: kind.into(), undecorated, shadow, geometry: large, ..window(id, 1) };
        let acts = tell(&mut model, told.clone());
        let view = opened(&acts);
        assert!(inside(view), "{view:?}");
        // It grows where it is, or goes.
        let geometry = Some(rectangle(900, 790, 300, 300));
        let acts = tell(&mut model, v1::Window { geometry, generation: 2, ..told });
        assert!(configured(&acts).is_some(), "it is told: {acts:?}");
        let Some(Act::Change(_, view)) = acts.last() else { panic!("{acts:?}") };
        assert!(inside(view), "{view:?}");
    }
    // It gives up its frame where it is.
    tell(&mut model, v1::Window { geometry: large, ..window(5, 1) });
    let bare = v1::Window { geometry: large, undecorated: true, ..window(5, 2) };
    let acts = tell(&mut model, bare);
    let Some(Act::Change(5, view)) = acts.last() else { panic!("{acts:?}") };
    assert!(inside(view), "{view:?}");
    // What the user has moved beyond the edge stays there.
    let native = Rect { x: 900, y: 600, width: 304, height: 314 };
    let told = *configured(&placed(&mut model, 1, native)).unwrap();
    let same = v1::Window {
        undecorated: true,
        geometry: told.geometry,
        configured: told.generation,
        ..window(1, 3)
    };
    tell(&mut model, same);
    assert_eq!(model.windows[&1].shown.as_ref().unwrap().native(), native);
}

#[test]
fn windows_are_no_larger_than_twice_the_desktop_and_have_an_end_together() {
    let mut model = model();
    let huge = |id| v1::Window { geometry: Some(rectangle(5, 5, 16_384, 16_384)), ..window(id, 1) };
    let view = opened(&tell(&mut model, huge(1))).clone();
    assert_eq!((view.content.width, view.content.height), (2000, 1600));
    for id in 2..=16 {
        opened(&tell(&mut model, huge(id)));
    }
    assert_eq!(tell(&mut model, huge(17)), []);
    assert_eq!(model.refusals().of(Refusal::Room), 1);
    // One that is there does not grow beyond, either.
    tell(&mut model, window(18, 1));
    assert_eq!(model.shown().count(), 16);
    hear(&mut model, from_guest::Message::Gone(v1::WindowGone { id: 1 }));
    let acts = model.acts();
    assert!(matches!(&acts[..], [Act::Shut(1), Act::Open(17, _)]), "{acts:?}");
    hear(&mut model, from_guest::Message::Gone(v1::WindowGone { id: 2 }));
    assert!(matches!(&model.acts()[..], [Act::Shut(2), Act::Open(18, _)]));
    tell(&mut model, window(19, 1));
    let grown = v1::Window { generation: 2, ..huge(18) };
    let acts = tell(&mut model, grown);
    assert_eq!(configured(&acts).unwrap().geometry, Some(rectangle(100, 100, 200, 150)));
}

#[test]
fn windows_that_open_too_fast_wait_and_come() {
    let mut model = model();
    for id in 1..=120 {
        tell(&mut model, window(id, 1));
    }
    assert_eq!((model.shown().count(), model.refusals().of(Refusal::OpenFlood)), (100, 20));
    assert_eq!(model.acts(), []);
    assert_eq!(model.refusals().of(Refusal::OpenFlood), 20);
    // To open the same anew is to open.
    let acts = tell(&mut model, v1::Window { alpha: true, ..window(1, 2) });
    assert_eq!(acts, []);
    let wait = model.wait().unwrap();
    model.pass(wait * 5);
    assert_eq!(model.acts().len(), 5);
    model.pass(wait * 1000);
    assert_eq!(model.acts().len(), 16);
    assert_eq!((model.shown().count(), model.wait()), (120, None));
}

#[test]
fn presses_on_the_border_are_the_hosts_and_lost_releases_are_found() {
    let mut model = model();
    tell(&mut model, v1::Window { undecorated: true, ..window(1, 1) });
    let motion = |x, y| Seen::Motion { window: 1, x: x * 256, y: y * 256, time: 0 };
    let button = |pressed| Seen::Button { window: 1, button: 1, pressed, time: 0 };
    model.see(motion(50, 5));
    model.see(button(true));
    model.see(Seen::Scroll { window: 1, horizontal: 0, vertical: 120, time: 0 });
    model.see(button(false));
    assert_eq!(model.acts(), []);
    model.see(motion(50, 50));
    model.see(button(true));
    let wish = |button| {
        let direction = MoveResizeDirection::Move.into();
        from_guest::Message::MoveResize(v1::MoveResize { window: 1, direction, button })
    };
    model.acts();
    hear(&mut model, wish(3));
    assert_eq!(model.acts(), []);
    hear(&mut model, wish(1));
    assert_eq!(model.acts(), [Act::MoveResize(1, MoveResizeDirection::Move)]);
    // A drag that left the window goes on; one that ended elsewhere has ended.
    model.see(Seen::Left { held: true, time: 7 });
    assert_eq!(model.acts().len(), 1);
    model.see(Seen::Left { held: false, time: 8 });
    let released = v1::PointerButton { window: 1, button: 1, pressed: false, time: 8 };
    assert_eq!(model.acts()[0], Act::Tell(from_host::Message::Button(released)));
    hear(&mut model, wish(1));
    assert_eq!(model.acts(), []);
}

#[test]
fn the_connection_ends_without_a_hello_of_this_version() {
    let mut model = Model::new("vm", MEMORY);
    let first = FromGuest { message: Some(from_guest::Message::Window(window(1, 1))) };
    assert_eq!(model.hear(Untrusted::new(first)), Err(Break::NoHello));
    let hello = v1::WindowsHello { version: 7, ..Default::default() };
    let hello = FromGuest { message: Some(from_guest::Message::Hello(hello)) };
    assert_eq!(model.hear(Untrusted::new(hello)), Err(Break::Version(7)));
}

/// Numbers that are often small, often at a limit, and sometimes anything.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0_u32..8, 2 => 0_u32..2000, 1 => Just(16_384_u32), 1 => any::<u32>()]
}

fn place() -> impl Strategy<Value = v1::Rectangle> {
    let at = prop_oneof![4 => -50_i32..1100, 1 => any::<i32>()];
    (at.clone(), at, number(), number())
        .prop_map(|(x, y, width, height)| rectangle(x, y, width, height))
}

fn any_window() -> impl Strategy<Value = v1::Window> {
    let flags = proptest::collection::vec(any::<bool>(), 8);
    let texts = (".{0,20}", ".{0,80}", proptest::collection::vec(place(), 0..4));
    let numbers = (number(), number(), number(), number(), number());
    (0_u32..6, 0_u64..20, place(), 0_i32..14, 0_u32..6, flags, texts, numbers).prop_map(
        |(id, generation, geometry, kind, transient_for, flags, (title, class, shape), numbers)| {
            let (configured, left, top, hint, opacity) = numbers;
            v1::Window {
                id,
                generation,
                configured: configured.into(),
                geometry: Some(geometry),
                kind,
                override_redirect: flags[0],
                title,
                instance: class.clone(),
                class,
                application: String::new(),
                transient_for,
                modal: flags[1],
                undecorated: flags[2],
                shadow: flags[3].then_some(v1::Extents { left, right: 3, top, bottom: 0 }),
                alpha: flags[4],
                shape,
                size_hints: Some(v1::SizeHints {
                    min_width: hint,
                    max_width: left,
                    ..Default::default()
                }),
                state: Some(v1::WindowState {
                    fullscreen: flags[5],
                    minimized: flags[6],
                    ..Default::default()
                }),
                opacity,
                no_focus: flags[7],
                pid: 0,
            }
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Say(from_guest::Message),
    See(Seen),
    Paint,
    Gone,
    Mode(bool),
    Resync,
    Launch,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let say = |message| Step::Say(message);
    let id = 0_u32..6;
    prop_oneof![
        6 => any_window().prop_map(move |window| say(from_guest::Message::Window(window))),
        1 => id.clone().prop_map(move |id| say(from_guest::Message::Gone(v1::WindowGone { id }))),
        4 => (id.clone(), number(), number(), number(), number(), proptest::collection::vec(place(), 0..70))
            .prop_map(move |(window, sequence, offset, width, height, damage)| {
                let (sequence, offset) = (sequence.into(), u64::from(offset) * 64);
                let stride = width.wrapping_mul(4);
                say(from_guest::Message::Present(v1::Present { window, sequence, offset, stride, width, height, damage }))
            }),
        1 => (id.clone(), any::<bool>()).prop_map(move |(window, activate)| {
            say(from_guest::Message::Raised(v1::WindowRaised { window, activate }))
        }),
        1 => (id.clone(), 0_i32..12).prop_map(move |(window, direction)| {
            say(from_guest::Message::MoveResize(v1::MoveResize { window, direction, button: 1 }))
        }),
        1 => Just(say(from_guest::Message::Told(v1::Told {}))),
        3 => (id.clone(), -100_i32..1000, -100_i32..1000, 5_u32..16_000, 20_u32..16_000, any::<[bool; 3]>())
            .prop_map(|(window, x, y, width, height, [fullscreen, minimized, hidden])| {
                let state = State { fullscreen, minimized, ..State::default() };
                let native = Rect { x, y, width, height };
                Step::See(Seen::Placed { window, native, state, frame: Insets::all(3), hidden })
            }),
        1 => id.clone().prop_map(|id| Step::See(Seen::Focus((id > 0).then_some(id)))),
        1 => (id.clone(), any::<bool>()).prop_map(|(window, pressed)| {
            Step::See(Seen::Button { window, button: 1, pressed, time: 0 })
        }),
        1 => (id.clone(), number(), any::<bool>()).prop_map(|(window, code, pressed)| {
            Step::See(Seen::Key { window, code, pressed, time: 0 })
        }),
        1 => (id, any::<i32>(), any::<i32>()).prop_map(|(window, x, y)| {
            Step::See(Seen::Motion { window, x, y, time: 0 })
        }),
        3 => Just(Step::Paint),
        1 => Just(Step::Gone),
        1 => any::<bool>().prop_map(Step::Mode),
        1 => Just(Step::Resync),
        1 => Just(Step::Launch),
        1 => (0_u64..70_000).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(|held| Step::See(Seen::Left { held, time: 0 })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn whatever_a_guest_says_the_desktop_stays_sound(steps in proptest::collection::vec(step(), 0..60)) {
        let mut model = model();
        let mut witness = Witness::new(MEMORY);
        for step in steps {
            match step {
                Step::Say(message) => hear(&mut model, message),
                Step::See(seen) => model.see(seen),
                Step::Paint => {
                    for (window, sequence) in witness.painting() {
                        model.painted(window, sequence);
                    }
                }
                Step::Gone => {
                    model.disconnected();
                    witness.watch(&model.acts());
                    prop_assert!(witness.open().is_empty());
                    let hello = v1::WindowsHello { version: 1, ..Default::default() };
                    hear(&mut model, from_guest::Message::Hello(hello));
                }
                Step::Mode(show) => {
                    model.show_windows(show);
                    let acts = model.acts();
                    witness.watch(&acts);
                    prop_assert!(show || witness.open().is_empty());
                }
                Step::Resync => model.resync(),
                Step::Launch => model.launched(),
                Step::Pass(time) => model.pass(Duration::from_millis(time)),
            }
            witness.watch(&model.acts());
            let shown: Vec<u32> = model.shown().map(|(id, _)| id).collect();
            prop_assert_eq!(shown, witness.open());
        }
    }
}
