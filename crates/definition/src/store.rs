//! The definition files of a user: one `NAME.toml` per VM, kept as the person wrote them.

use crate::atomic::{Existing, WriteError, write_atomically};
use crate::check::FieldProblem;
use crate::machine::VmDefinition;
use crate::name::check_name;
use crate::text::{TextError, from_bytes, parse};
use std::io;
use std::path::{Path, PathBuf};

const EXTENSION: &str = "toml";

/// A definition that cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] FieldProblem),
    /// No VM of that name.
    #[error("there is no VM \"{name}\"")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// A VM of that name is there already.
    #[error("there is already a VM \"{name}\"")]
    Taken {
        /// The name.
        name: String,
    },
    /// The text is not a definition.
    #[error("the definition of VM \"{name}\" is not valid: {source}")]
    Text {
        /// The VM.
        name: String,
        /// Its file, when it was read from one.
        path: Option<PathBuf>,
        /// What is wrong and where.
        #[source]
        source: Box<TextError>,
    },
    /// File name and name inside differ.
    #[error(
        "the definition of VM \"{name}\" says name = {inside:?}; allowed: name = {name:?}, as its \
         file is called, for the name is fixed once a VM is created"
    )]
    NameDiffers {
        /// The name it is stored under.
        name: String,
        /// The name that stands in the text.
        inside: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A file cannot be removed.
    #[error("cannot remove {path}: {source}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The folder of definition files.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Definitions in `folder`, which exists.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The file of VM `name`.
    ///
    /// # Errors
    /// `name` cannot be a name (and so cannot lead out of the folder).
    pub fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        check_name(name)?;
        Ok(self.folder.join(format!("{name}.{EXTENSION}")))
    }

    /// All names in the folder, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let read = |source| StoreError::Read { path: self.folder.clone(), source };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let is_definition = path.extension().is_some_and(|ext| ext == EXTENSION);
            if let (true, Some(stem)) = (is_definition, path.file_stem().and_then(|s| s.to_str()))
                && check_name(stem).is_ok()
            {
                names.push(stem.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The text as it stands in the file.
    ///
    /// # Errors
    /// No such VM, or the file cannot be read.
    pub fn text(&self, name: &str) -> Result<String, StoreError> {
        let path = self.path(name)?;
        let read = std::fs::read(&path).and_then(|bytes| {
            from_bytes(bytes).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
        });
        read.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::Unknown { name: name.to_owned() },
            _ => StoreError::Read { path, source },
        })
    }

    /// The definition of VM `name`.
    ///
    /// # Errors
    /// No such VM, or its file is not a definition (any more).
    pub fn load(&self, name: &str) -> Result<VmDefinition, StoreError> {
        let text = self.text(name)?;
        read(name, Some(&self.path(name)?), &text)
    }

    /// Stores the definition `text` under the name it carries.
    ///
    /// # Errors
    /// Not a definition, name taken, or not writable; nothing is left behind.
    pub fn create(&self, text: &str) -> Result<VmDefinition, StoreError> {
        let definition = parse(text).map_err(|source| StoreError::Text {
            name: String::new(),
            path: None,
            source: Box::new(source),
        })?;
        let path = self.path(&definition.name)?;
        match write_atomically(&path, text.as_bytes(), Existing::Keep) {
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {
                Err(StoreError::Taken { name: definition.name })
            }
            other => Ok(other.map(|()| definition)?),
        }
    }

    /// Replaces the text of VM `name`.
    ///
    /// # Errors
    /// No such VM, not a definition, another name, or not writable; the old text then stands.
    pub fn replace(&self, name: &str, text: &str) -> Result<VmDefinition, StoreError> {
        self.text(name)?;
        let definition = read(name, None, text)?;
        write_atomically(&self.path(name)?, text.as_bytes(), Existing::Replace)?;
        Ok(definition)
    }

    /// Removes the definition of VM `name`.
    ///
    /// # Errors
    /// No such VM, or the file cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name)?;
        std::fs::remove_file(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::Unknown { name: name.to_owned() },
            _ => StoreError::Remove { path, source },
        })
    }
}

fn read(name: &str, path: Option<&Path>, text: &str) -> Result<VmDefinition, StoreError> {
    let definition = parse(text).map_err(|source| StoreError::Text {
        name: name.to_owned(),
        path: path.map(Path::to_owned),
        source: Box::new(source),
    })?;
    if definition.name == name {
        Ok(definition)
    } else {
        Err(StoreError::NameDiffers { name: name.to_owned(), inside: definition.name })
    }
}
