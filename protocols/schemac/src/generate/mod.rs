//! Schemas to Rust.
//!
//! A definition becomes a type and its `Codec`. What is alike in all of them is in the runtime, which the code
//! names by an absolute path; names of the standard library are written in full, since a schema may define a
//! `Result` or a `Vec` of its own.

mod doc;
mod read;
mod types;
mod write;

use std::fmt::Write;

use crate::names::snake;
use crate::schema::Module;
use crate::world::World;

/// Who includes the code may keep it private, and use a part of it.
const ALLOWED: &str = "#[allow(dead_code, unreachable_pub)]";

/// How the code is to look.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The path of the runtime.
    pub(crate) runtime: String,
    /// Whether there is to be a list of all definitions.
    pub(crate) catalogue: bool,
}

/// Code for all modules that are not elsewhere.
pub(crate) fn generate(world: &World<'_>, options: &Options) -> String {
    let mut out = String::from("// Generated from schemas; what is changed here is lost.\n");
    for (m, module) in world.modules.iter().enumerate() {
        if module.elsewhere.is_none() {
            let mut generator = Generator { world, options, m, module, out: &mut out };
            generator.module();
        }
    }
    if options.catalogue {
        catalogue(world, options, &mut out);
    }
    out
}

/// Writes one module.
struct Generator<'g, 'm> {
    world: &'g World<'m>,
    options: &'g Options,
    m: usize,
    module: &'m Module,
    out: &'g mut String,
}

impl<'m> Generator<'_, 'm> {
    fn module(&mut self) {
        let file = self.module.file.rsplit(['/', '\\']).next().unwrap_or_default();
        doc::write(self.out, &self.module.doc, &format!("The schema `{file}`."));
        self.line(ALLOWED);
        self.line(&format!("pub mod {} {{", snake(&self.module.name)));
        self.source();
        for d in 0..self.module.definitions.len() {
            self.definition((self.m, d));
        }
        self.line("}");
    }

    /// The schema itself, for whoever wants to print it or hand it on.
    fn source(&mut self) {
        let text = &self.module.text;
        self.line(&format!("#[doc = \"The text of this schema.\"]\npub const SOURCE: &str = {text:?};"));
    }

    fn line(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    /// A path into the runtime.
    fn rt(&self, name: &str) -> String {
        format!("{}::{name}", self.options.runtime)
    }
}

/// The list of all definitions, of which those with capabilities are listed with plain values for them.
fn catalogue(world: &World<'_>, options: &Options, out: &mut String) {
    let rt = &options.runtime;
    out.push_str("/// All definitions, by module and in the order of its text.\n");
    let _ = writeln!(out, "{ALLOWED}");
    let _ = writeln!(out, "pub const DEFINITIONS: &[{rt}::Definition] = &[");
    for id in world.ids() {
        let (module, definition) = world.get(id);
        if module.elsewhere.is_none() {
            let (snake, name) = (snake(&module.name), &definition.name);
            let parameter = if world.is_embedding(id) { format!("<{rt}::Value>") } else { String::new() };
            let _ = writeln!(out, "{rt}::Definition::of::<{snake}::{name}{parameter}>(),");
        }
    }
    out.push_str("];\n");
}

/// Bytes as a Rust literal.
fn byte_literal(bytes: &[u8]) -> String {
    format!("b\"{}\"", bytes.escape_ascii())
}
