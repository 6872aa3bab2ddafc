//! Changes of a definition that keep what else a person wrote: comments, order, spaces.

use crate::machine::{Share, ShareKind, VmDefinition};
use crate::store::{Store, StoreError};
use std::sync::{Mutex, PoisonError};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike, Value, value};

/// One change at a time: each reads what the one before it wrote.
static TURN: Mutex<()> = Mutex::new(());

impl Store {
    /// Changes the definition of VM `name` in its file. A text that is the same afterwards is not written.
    ///
    /// # Errors
    /// No such VM, its file is not a definition or would not be one any more, or it cannot be written; the old
    /// text then stands.
    pub fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut DocumentMut),
    ) -> Result<VmDefinition, StoreError> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Says with line and column what is wrong with a file that is no definition.
        let before = self.load(name)?;
        let text = self.text(name)?;
        // What `load` could read is TOML.
        let Ok(mut document) = text.parse::<DocumentMut>() else {
            return Ok(before);
        };
        change(&mut document);
        let changed = document.to_string();
        if changed == text { Ok(before) } else { self.replace(name, &changed) }
    }
}

/// Sets `key` in the table `table`, which is made where it is missing; a comment behind the value stays.
pub fn set(document: &mut DocumentMut, table: &str, key: &str, value: impl Into<Value>) {
    let mut value = value.into();
    let item = document.entry(table).or_insert_with(|| {
        let mut made = Table::new();
        made.decor_mut().set_prefix("\n");
        Item::Table(made)
    });
    // Anything but a table is no definition, and none is changed here.
    let Some(table): Option<&mut dyn TableLike> = item.as_table_like_mut() else {
        return;
    };
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        *value.decor_mut() = old.decor().clone();
    }
    table.insert(key, Item::Value(value));
}

/// Adds a share behind those there are.
pub fn add_share(document: &mut DocumentMut, share: &Share) {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table.insert("tag", value(&share.tag));
    // A path that is not text is none that a definition can have.
    table.insert("path", value(share.path.to_string_lossy().into_owned()));
    let kind = match share.kind {
        ShareKind::Plan9 => "9p",
        ShareKind::VirtioFs => "virtio-fs",
        ShareKind::Vsock => "vsock",
    };
    table.insert("kind", value(kind));
    if share.read_only {
        table.insert("read-only", value(true));
    }
    match document.entry("share").or_insert(Item::ArrayOfTables(ArrayOfTables::new())) {
        Item::ArrayOfTables(shares) => shares.push(table),
        Item::Value(Value::Array(shares)) => shares.push(table.into_inline_table()),
        // No definition.
        _ => {}
    }
}

/// Removes the share of this tag.
pub fn remove_share(document: &mut DocumentMut, tag: &str) {
    let is_other = |share: &dyn TableLike| share.get("tag").and_then(Item::as_str) != Some(tag);
    let left = match document.get_mut("share") {
        Some(Item::ArrayOfTables(shares)) => {
            shares.retain(|share| is_other(share));
            shares.len()
        }
        Some(Item::Value(Value::Array(shares))) => {
            shares.retain(|share| share.as_inline_table().is_none_or(|share| is_other(share)));
            shares.len()
        }
        _ => return,
    };
    if left == 0 {
        document.remove("share");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# mine\nname = \"a\" # it\nmemory = 64\ncpus = 1\n";

    fn store(text: &str) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        store.create(text).unwrap();
        (folder, store)
    }

    #[test]
    fn a_change_keeps_what_else_stands_there() {
        let (_folder, store) = store(TEXT);
        let changed =
            store.change("a", |document| set(document, "integration", "open-with", true)).unwrap();
        assert!(changed.integration.open_with);
        let expected = format!("{TEXT}\n[integration]\nopen-with = true\n");
        assert_eq!(store.text("a").unwrap(), expected);
    }

    #[test]
    fn a_value_that_is_replaced_keeps_its_comment_and_its_place() {
        let (_folder, store) =
            store(&format!("{TEXT}[integration]\nlaunchers = true # why\nopen-with = true\n"));
        store.change("a", |document| set(document, "integration", "launchers", false)).unwrap();
        let expected = format!("{TEXT}[integration]\nlaunchers = false # why\nopen-with = true\n");
        assert_eq!(store.text("a").unwrap(), expected);
    }

    #[test]
    fn an_inline_table_is_changed_as_well() {
        let (_folder, store) = store(&format!("{TEXT}integration = {{ launchers = true }}\n"));
        let changed =
            store.change("a", |document| set(document, "integration", "launchers", false)).unwrap();
        assert!(!changed.integration.launchers);
    }

    #[test]
    fn a_change_that_makes_nonsense_is_refused_and_changes_nothing() {
        let (_folder, store) = store(TEXT);
        assert!(store.change("a", |document| set(document, "integration", "no", 1)).is_err());
        assert!(store.change("a", |document| document["memory"] = toml_edit::value(0)).is_err());
        assert_eq!(store.text("a").unwrap(), TEXT);
        assert!(matches!(store.change("b", |_| ()), Err(StoreError::Unknown { .. })));
    }

    const SHARES: &str = "[[share]]\ntag = \"one\" # first\npath = \"/srv/one\"\n\n\
        # For reading.\n[[share]]\ntag = \"two\"\npath = \"/srv/two\"\nread-only = true\n\n\
        # Off by default.\n[clipboard]\npolicy = \"off\"\n";

    fn share(tag: &str) -> Share {
        let path = "/srv/new [x] \"#\"".into();
        Share { tag: tag.into(), path, kind: ShareKind::Vsock, read_only: true }
    }

    #[test]
    fn a_share_comes_and_goes_and_the_rest_stays() {
        let text = format!("{TEXT}{SHARES}");
        let (_folder, store) = store(&text);
        let changed = store.change("a", |document| add_share(document, &share("new"))).unwrap();
        assert_eq!(changed.shares[2], share("new"));
        store.change("a", |document| remove_share(document, "new")).unwrap();
        assert_eq!(store.text("a").unwrap(), text);
        store.change("a", |document| remove_share(document, "one")).unwrap();
        let left = store.text("a").unwrap();
        assert!(left.contains("# For reading.\n[[share]]") && !left.contains("# first"), "{left}");
        store.change("a", |document| remove_share(document, "two")).unwrap();
        let left = store.text("a").unwrap();
        assert!(left.contains("# Off by default.\n[clipboard]"), "{left}");
        store.change("a", |document| add_share(document, &share("new"))).unwrap();
        assert_eq!(store.load("a").unwrap().shares, [share("new")]);
    }

    #[test]
    fn shares_in_one_line_are_changed_as_well() {
        let (_folder, store) =
            store(&format!("{TEXT}share = [{{ tag = \"t\", path = \"/t\" }}]\n"));
        let changed = store.change("a", |document| add_share(document, &share("new"))).unwrap();
        assert_eq!(changed.shares[1], share("new"));
        let changed = store.change("a", |document| remove_share(document, "t")).unwrap();
        assert_eq!(changed.shares, [share("new")]);
    }

    #[test]
    fn a_share_that_cannot_be_one_is_refused() {
        let (_folder, store) = store(&format!("{TEXT}{SHARES}"));
        for tag in ["one", ".hidden", "a b"] {
            let refused = store.change("a", |document| add_share(document, &share(tag)));
            assert!(refused.is_err(), "{tag}");
        }
    }
}
