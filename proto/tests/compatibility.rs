//! The interfaces as they are now, beside those of the last release: programs of both must understand each
//! other. What may change is written at the head of each .proto file; what may not is found here.
//!
//! `proto/released.binpb` holds the released interfaces. A release writes it anew: run this test with
//! `MACROHARD_RELEASE_PROTO=1`, which it refuses while anything is broken.

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};
use std::collections::BTreeMap;
use std::path::Path;

const FILES: [&str; 4] = [
    "macrohard/v1/clipboard.proto",
    "macrohard/v1/control.proto",
    "macrohard/v1/guest.proto",
    "macrohard/v1/host.proto",
];

/// Everything that counts on the wire, by full name.
#[derive(Default)]
struct Interfaces {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    services: BTreeMap<String, ServiceDescriptorProto>,
}

impl Interfaces {
    fn of(set: &FileDescriptorSet) -> Self {
        let mut interfaces = Self::default();
        for file in &set.file {
            let package = file.package();
            for message in &file.message_type {
                interfaces.add_message(package, message);
            }
            for of_file in &file.enum_type {
                interfaces.enums.insert(format!("{package}.{}", of_file.name()), of_file.clone());
            }
            for service in &file.service {
                let name = format!("{package}.{}", service.name());
                interfaces.services.insert(name, service.clone());
            }
        }
        interfaces
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        for of_message in &message.enum_type {
            self.enums.insert(format!("{name}.{}", of_message.name()), of_message.clone());
        }
        self.messages.insert(name, message.clone());
    }
}

/// What of `old` a program built with `new` would not understand, or the other way round.
fn breaks(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let (old, new) = (Interfaces::of(old), Interfaces::of(new));
    let mut found = Vec::new();
    for (name, before) in &old.messages {
        match new.messages.get(name) {
            Some(now) => message_breaks(name, before, now, &mut found),
            None => found.push(format!("message {name} is gone")),
        }
    }
    for (name, before) in &old.enums {
        let Some(now) = new.enums.get(name) else {
            found.push(format!("enum {name} is gone"));
            continue;
        };
        for value in &before.value {
            let (word, number) = (value.name(), value.number());
            match now.value.iter().find(|value| value.name() == word) {
                None => found.push(format!("{name}.{word} is gone")),
                Some(now) if now.number() != number => {
                    found.push(format!("{name}.{word} was {number} and is {}", now.number()));
                }
                Some(_) => {}
            }
        }
    }
    for (name, before) in &old.services {
        let Some(now) = new.services.get(name) else {
            found.push(format!("service {name} is gone"));
            continue;
        };
        for method in &before.method {
            let call = method.name();
            match now.method.iter().find(|method| method.name() == call) {
                None => found.push(format!("call {name}.{call} is gone")),
                Some(now) => {
                    let differs = (now.input_type(), now.output_type())
                        != (method.input_type(), method.output_type())
                        || now.client_streaming() != method.client_streaming()
                        || now.server_streaming() != method.server_streaming();
                    if differs {
                        found.push(format!("call {name}.{call} takes or gives another thing"));
                    }
                }
            }
        }
    }
    found
}

fn message_breaks(
    name: &str,
    before: &DescriptorProto,
    now: &DescriptorProto,
    found: &mut Vec<String>,
) {
    // The name of the `oneof` that a field is in. The one that `optional` makes is no choice.
    let choice = |message: &DescriptorProto, field: &FieldDescriptorProto| {
        let index = usize::try_from(field.oneof_index?).ok()?;
        (!field.proto3_optional()).then(|| message.oneof_decl[index].name().to_owned())
    };
    for field in &before.field {
        let what = format!("{name}.{}", field.name());
        let Some(other) = now.field.iter().find(|other| other.number() == field.number()) else {
            found.push(format!("{what} (number {}) is gone", field.number()));
            continue;
        };
        if other.name() != field.name() {
            let (number, other) = (field.number(), other.name());
            found.push(format!("{what}: its number {number} is {other}'s now"));
        }
        if (other.r#type, other.type_name()) != (field.r#type, field.type_name()) {
            found.push(format!("{what} has another type"));
        }
        if other.label != field.label {
            found.push(format!("{what} is repeated in one and not in the other"));
        }
        if other.proto3_optional() != field.proto3_optional() {
            found.push(format!("{what} can be absent in one and not in the other"));
        }
        if choice(before, field) != choice(now, other) {
            found.push(format!("{what} has moved into or out of a oneof"));
        }
    }
    // An old reader sees a new member of an old choice as no choice: allowed, since readers refuse that.
    // A new field in the place of a reserved number is not.
    for field in &now.field {
        let reserved = |range: &prost_types::descriptor_proto::ReservedRange| {
            (range.start()..range.end()).contains(&field.number())
        };
        if before.reserved_range.iter().any(reserved) {
            found.push(format!("{name}.{} uses a reserved number", field.name()));
        }
    }
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn present() -> FileDescriptorSet {
    let mut set = protox::compile(FILES, [folder().join("proto")]).unwrap();
    // Comments and places are not part of the interface.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    set
}

#[test]
fn programs_of_the_last_release_and_of_this_one_understand_each_other() {
    let path = folder().join("released.binpb");
    let present = present();
    let released = std::fs::read(&path).ok();
    if let Some(released) = &released {
        let released = FileDescriptorSet::decode(&released[..]).unwrap();
        assert!(!released.file.is_empty());
        let found = breaks(&released, &present);
        assert!(
            found.is_empty(),
            "the interfaces break with the last release; raise PROTOCOL and make new messages instead:\n{}",
            found.join("\n")
        );
    }
    if std::env::var_os("MACROHARD_RELEASE_PROTO").is_some() {
        std::fs::write(&path, present.encode_to_vec()).unwrap();
    } else {
        assert!(released.is_some(), "{} is missing", path.display());
    }
}

/// The present interfaces with one thing changed.
fn changed(change: impl FnOnce(&mut FileDescriptorSet)) -> FileDescriptorSet {
    let mut set = present();
    change(&mut set);
    set
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    let mut messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    messages.find(|message| message.name() == name).unwrap()
}

fn field<'a>(set: &'a mut FileDescriptorSet, of: &str, name: &str) -> &'a mut FieldDescriptorProto {
    message(set, of).field.iter_mut().find(|field| field.name() == name).unwrap()
}

#[test]
fn each_kind_of_break_is_noticed() {
    use prost_types::field_descriptor_proto::{Label, Type};
    type Change = fn(&mut FileDescriptorSet);
    let changes: [(&str, Change); 17] = [
        ("message macrohard.v1.PingRequest is gone", |set| {
            for file in &mut set.file {
                file.message_type.retain(|message| message.name() != "PingRequest");
            }
        }),
        ("message macrohard.v1.PingReply is gone", |set| {
            message(set, "PingReply").name = Some("Pong".into());
        }),
        ("ExecStart.folder (number 3) is gone", |set| {
            message(set, "ExecStart").field.retain(|field| field.name() != "folder");
        }),
        ("ExecStart.folder (number 3) is gone", |set| {
            field(set, "ExecStart", "folder").number = Some(30);
        }),
        ("ExecStart.user: its number 5 is name's now", |set| {
            field(set, "ExecStart", "user").name = Some("name".into());
        }),
        ("ExecStart.user has another type", |set| {
            field(set, "ExecStart", "user").set_type(Type::Bytes);
        }),
        ("ExecStart.terminal has another type", |set| {
            let other = ".macrohard.v1.PingRequest".to_owned();
            field(set, "ExecStart", "terminal").type_name = Some(other);
        }),
        ("ExecStart.user is repeated", |set| {
            field(set, "ExecStart", "user").set_label(Label::Repeated);
        }),
        ("IntegrationRequest.launchers can be absent", |set| {
            let changed = field(set, "IntegrationRequest", "launchers");
            (changed.proto3_optional, changed.oneof_index) = (None, None);
        }),
        ("IconReply.svg has moved", |set| field(set, "IconReply", "svg").oneof_index = None),
        ("ExecStart.user has moved", |set| {
            let start = message(set, "ExecStart");
            let name = Some("who".into());
            start.oneof_decl.push(prost_types::OneofDescriptorProto { name, options: None });
            field(set, "ExecStart", "user").oneof_index = Some(0);
        }),
        ("FEATURE_EXEC is gone", |set| {
            let mut enums = set.file.iter_mut().flat_map(|file| &mut file.enum_type);
            let feature = enums.find(|of_file| of_file.name() == "Feature").unwrap();
            feature.value.retain(|value| value.name() != "FEATURE_EXEC");
        }),
        ("FEATURE_EXEC was 1 and is 99", |set| {
            let mut enums = set.file.iter_mut().flat_map(|file| &mut file.enum_type);
            let feature = enums.find(|of_file| of_file.name() == "Feature").unwrap();
            let mut values = feature.value.iter_mut();
            values.find(|value| value.name() == "FEATURE_EXEC").unwrap().number = Some(99);
        }),
        ("enum macrohard.v1.Feature is gone", |set| {
            for file in &mut set.file {
                file.enum_type.retain(|of_file| of_file.name() != "Feature");
            }
        }),
        ("service macrohard.v1.Host is gone", |set| {
            for file in &mut set.file {
                file.service.retain(|service| service.name() != "Host");
            }
        }),
        ("call macrohard.v1.Host.OpenUrl is gone", |set| {
            for service in set.file.iter_mut().flat_map(|file| &mut file.service) {
                service.method.retain(|method| method.name() != "OpenUrl");
            }
        }),
        ("call macrohard.v1.Guest.Ping takes or gives another thing", |set| {
            let services = set.file.iter_mut().flat_map(|file| &mut file.service);
            let mut methods = services.flat_map(|service| &mut service.method);
            methods.find(|method| method.name() == "Ping").unwrap().server_streaming = Some(true);
        }),
    ];
    for (expected, change) in changes {
        let found = breaks(&present(), &changed(change));
        assert!(found.iter().any(|found| found.contains(expected)), "{expected}: {found:?}");
    }
    let reserved = changed(|set| {
        let range = prost_types::descriptor_proto::ReservedRange { start: Some(5), end: Some(6) };
        let start = message(set, "ExecStart");
        start.field.retain(|field| field.name() != "user");
        start.reserved_range.push(range);
    });
    assert_eq!(
        breaks(&reserved, &present()),
        ["macrohard.v1.ExecStart.user uses a reserved number"]
    );
}

#[test]
fn what_is_only_added_breaks_nothing() {
    let added = changed(|set| {
        let mut more = field(set, "ExecStart", "user").clone();
        (more.name, more.number) = (Some("more".into()), Some(77));
        message(set, "ExecStart").field.push(more);
        let name = Some("Added".into());
        set.file[0].message_type.push(DescriptorProto { name, ..DescriptorProto::default() });
        for file in &mut set.file {
            if let Some(service) = file.service.first_mut() {
                let mut method = service.method[0].clone();
                method.name = Some("AddedCall".into());
                service.method.push(method);
            }
        }
    });
    assert_eq!(breaks(&present(), &added), Vec::<String>::new());
}
