//! A compiler from Preserves schemas to Rust types that read and write themselves.
//!
//! # In a build script
//! A crate that keeps its schemas in a folder `schemas` has, in its manifest,
//!
//! ```toml
//! [dependencies]
//! staunch-protocols = { .. }
//!
//! [build-dependencies]
//! staunch-schemac = { .. }
//! ```
//!
//! as its `build.rs`
//!
//! ```no_run
//! fn main() -> Result<(), staunch_schemac::Diagnostics> {
//!     staunch_schemac::Compiler::new().directory("schemas").write_to_out_dir("schemas.rs")
//! }
//! ```
//!
//! and somewhere in its sources
//!
//! ```ignore
//! include!(concat!(env!("OUT_DIR"), "/schemas.rs"));
//! ```
//!
//! which yields one module per schema, by its name in Rust's manner. If a schema is wrong, the build fails with a
//! line for each fault, as in `schemas/chat.prs:7:12: this module defines no Presense`. Cargo is told to run the
//! script again when a schema changes.
//!
//! # Schemas that refer to others
//! `module.Name` refers to a definition in another file. Files whose types some crate has already are *imported*:
//! they are read, and checked, but what they define is taken from there. To refer to the schemas of the Syndicate
//! protocol, whose types are in `staunch_protocols::schema`, take a copy of their folder (its README says how) and
//! import it:
//!
//! ```no_run
//! # fn main() -> Result<(), staunch_schemac::Diagnostics> {
//! staunch_schemac::Compiler::new()
//!     .directory("schemas")
//!     .import("vendor/syndicate-schemas", "::staunch_protocols::schema")
//!     .write_to_out_dir("schemas.rs")
//! # }
//! ```
//!
//! # What comes out
//! | schema | Rust |
//! | --- | --- |
//! | `bool` `double` `int` `string` `bytes` `symbol` | `bool` `Double` `Int` `String` `Vec<u8>` `Symbol` |
//! | `any` | `Value`: any value, in canonical bytes |
//! | `#:p` | `Embedded<E>`; the type, and all that hold it, have a parameter `E`, by default `Value` |
//! | `[p ...]` `#{p}` `{p: q ...:...}` | `Vec` `BTreeSet` `BTreeMap` |
//! | a literal | nothing: it is checked and written |
//! | a compound | a struct; compounds inside it add their parts to it |
//! | `a / b` | an enum; the first that fits is taken |
//! | `a & b` | a struct with the parts of both |
//!
//! Every type is `Debug`, `Clone`, `Eq`, `Ord` and `Hash`, implements `Codec`, and has the text of its definition
//! in its documentation. Comments right before definitions, alternatives and parts become documentation as well.
//! The code needs the traits and types of a *runtime*, normally `staunch_protocols::schema`: see
//! [`Compiler::runtime`].
//!
//! Surplus elements, fields and keys are ignored when reading and never written, as the protocol asks. So an
//! alternative that only adds fields to an earlier one is never reached, which is an error here.
//!
//! # What is not supported
//! `include` and `embeddedType` (which is read, and ignored: the parameter `E` takes its place); fields of records
//! and joined dictionaries that are no patterns of the respective kind; literals with embedded values in them.
#![forbid(unsafe_code)]

mod check;
mod cover;
mod datum;
mod diagnostic;
mod generate;
mod names;
mod parse;
mod read;
pub mod schema;
mod world;

use std::path::{Path, PathBuf};

pub use diagnostic::{Diagnostic, Diagnostics};
use generate::Options;
use schema::Module;
use world::World;

/// What to compile, and how. See the crate's documentation.
#[derive(Debug, Clone)]
pub struct Compiler {
    modules: Vec<Module>,
    /// What was read, for Cargo.
    paths: Vec<PathBuf>,
    faults: Diagnostics,
    options: Options,
}

impl Default for Compiler {
    fn default() -> Compiler {
        Compiler::new()
    }
}

impl Compiler {
    /// Nothing to compile yet. The runtime is `staunch_protocols::schema`.
    pub fn new() -> Compiler {
        Compiler {
            modules: Vec::new(),
            paths: Vec::new(),
            faults: Diagnostics::default(),
            options: Options { runtime: "::staunch_protocols::schema".into(), catalogue: false },
        }
    }

    /// Adds every `.prs` file in a folder, in order of their names. Folders in it are not looked at.
    #[must_use]
    pub fn directory(mut self, path: impl AsRef<Path>) -> Compiler {
        self.add_directory(path.as_ref(), None);
        self
    }

    /// Adds one `.prs` file; its name without the ending is the module's.
    #[must_use]
    pub fn file(mut self, path: impl AsRef<Path>) -> Compiler {
        self.add_file(path.as_ref(), None);
        self
    }

    /// Adds a module from its text; diagnostics name it as `file`.
    #[must_use]
    pub fn text(mut self, module: &str, file: &str, text: &str) -> Compiler {
        self.add_text(module, file, text, None);
        self
    }

    /// Adds every `.prs` file in a folder, to be referred to only: their types are in modules of their names in
    /// the Rust module `rust_path`, which should begin with `::` or `crate`.
    #[must_use]
    pub fn import(mut self, path: impl AsRef<Path>, rust_path: &str) -> Compiler {
        self.add_directory(path.as_ref(), Some(rust_path));
        self
    }

    /// Takes the runtime from another place than `::staunch_protocols::schema`. It must have what that has.
    #[must_use]
    pub fn runtime(mut self, rust_path: &str) -> Compiler {
        self.options.runtime = rust_path.into();
        self
    }

    /// Adds a constant `DEFINITIONS` with all definitions, to find them by name.
    #[must_use]
    pub fn catalogue(mut self) -> Compiler {
        self.options.catalogue = true;
        self
    }

    /// Checks everything and yields the modules.
    ///
    /// # Errors
    /// All faults, in order of file and place.
    pub fn check(self) -> Result<Vec<Module>, Diagnostics> {
        let mut faults = self.faults;
        // What does not parse leads to more faults that are none.
        if faults.0.is_empty() {
            check::check(&World::new(&self.modules), &mut faults);
        }
        faults.or(self.modules)
    }

    /// The generated code, not formatted.
    ///
    /// # Errors
    /// As [`Compiler::check`].
    pub fn generate(self) -> Result<String, Diagnostics> {
        let options = self.options.clone();
        let modules = self.check()?;
        Ok(generate::generate(&World::new(&modules), &options))
    }

    /// Writes the generated code into Cargo's `OUT_DIR`, under this name, and tells Cargo what it depends on. For
    /// build scripts.
    ///
    /// # Errors
    /// As [`Compiler::check`]; and if the file cannot be written.
    pub fn write_to_out_dir(self, name: &str) -> Result<(), Diagnostics> {
        for path in &self.paths {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        let code = self.generate()?;
        let mut faults = Diagnostics::default();
        match std::env::var_os("OUT_DIR") {
            None => faults.whole(name, "OUT_DIR is not set: this is for build scripts"),
            Some(folder) => {
                let path = Path::new(&folder).join(name);
                if let Err(error) = std::fs::write(&path, code) {
                    faults.whole(&path.display().to_string(), error.to_string());
                }
            }
        }
        faults.or(())
    }

    fn add_directory(&mut self, path: &Path, elsewhere: Option<&str>) {
        self.paths.push(path.to_owned());
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.faults.whole(&path.display().to_string(), error.to_string()),
        };
        let files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let mut files: Vec<PathBuf> =
            files.filter(|file| file.extension().is_some_and(|e| e == "prs")).collect();
        files.sort();
        if files.is_empty() {
            self.faults.whole(&path.display().to_string(), "there are no .prs files here");
        }
        files.iter().for_each(|file| self.add_file(file, elsewhere));
    }

    fn add_file(&mut self, path: &Path, elsewhere: Option<&str>) {
        self.paths.push(path.to_owned());
        let file = path.display().to_string();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match std::fs::read_to_string(path) {
            Ok(text) => self.add_text(name, &file, &text, elsewhere),
            Err(error) => self.faults.whole(&file, error.to_string()),
        }
    }

    fn add_text(&mut self, name: &str, file: &str, text: &str, elsewhere: Option<&str>) {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            self.faults.whole(file, "a module's name is a letter, then letters, digits and underscores");
        }
        let mut module = parse::module(name, file, text, &mut self.faults);
        module.elsewhere = elsewhere.map(|path| format!("{path}::{}", names::snake(name)));
        self.modules.push(module);
    }
}
