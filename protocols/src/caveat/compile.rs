//! From lists of caveats to programs.
//!
//! Patterns and templates are walked with an explicit stack of what is left to do. A caveat that turns out to
//! be malformed is unwound to where it began: nothing of it counts, not even its errors.

use std::sync::Arc;

use super::{CaveatError, Caveats, List, Op, Piece, Program, Rule, Span, Step, check_length, digest};
use crate::wire::{View, sort_key, tag};

/// What compiling a list tells.
pub(crate) struct Compiled {
    pub(crate) caveats: Caveats,
    /// A caveat of a known kind has fields that its kind does not have, somewhere.
    pub(crate) has_surplus: bool,
}

/// See [`Caveats::compile`].
pub(crate) fn compile<'a>(list: impl Iterator<Item = View<'a>>) -> Result<Compiled, CaveatError> {
    let mut compiler = Compiler::default();
    compiler.source.push(tag::SEQUENCE);
    for caveat in list {
        let bytes = compiler.source.len() - 1 + caveat.span().len();
        check_length(compiler.program.steps.len() + 1, bytes)?;
        compiler.shift = (compiler.source.len() as u32).wrapping_sub(caveat.start() as u32);
        compiler.source.extend_from_slice(caveat.span());
        compiler.step(caveat)?;
    }
    compiler.source.push(tag::END);
    compiler.program.lists[0] = List {
        steps: 0..compiler.program.steps.len() as u32,
        source: Span { start: 0, length: compiler.source.len() as u32 },
    };
    while let Some(pending) = compiler.pending.pop() {
        compiler.nested_list(pending)?;
    }
    let mut program = compiler.program;
    program.source = compiler.source.into();
    // Capabilities live long.
    program.steps.shrink_to_fit();
    program.digests.shrink_to_fit();
    program.rules.shrink_to_fit();
    program.ops.shrink_to_fit();
    program.pieces.shrink_to_fit();
    program.pool.shrink_to_fit();
    let caveats = Caveats::default().with(&Arc::new(program), 0)?;
    Ok(Compiled { caveats, has_surplus: compiler.has_surplus })
}

/// What does not have the form it should have; what it is in is then unknown as a whole.
struct Malformed;

/// A list in an `attenuate` template, not compiled yet.
#[derive(Clone, Copy)]
struct Pending<'a> {
    list: u32,
    items: View<'a>,
    shift: u32,
}

/// What is left to do of a pattern or template. `Items` and the like stand for a value and its later siblings.
#[derive(Clone, Copy)]
enum Task<'a> {
    Pattern { pattern: View<'a>, negated: bool },
    Conjuncts { first: View<'a>, negated: bool },
    PatternItems { first: View<'a>, negated: bool },
    PatternEntries { key: View<'a>, negated: bool },
    Emit(Op),
    CloseNot(u32),
    Template(View<'a>),
    TemplateItems(View<'a>),
    TemplateEntries(View<'a>),
    CloseCompound,
    Piece(Piece),
}

struct Compiler<'a> {
    program: Program,
    source: Vec<u8>,
    /// What to add to a position in the views to get one in the source, modulo 2^32.
    shift: u32,
    pending: Vec<Pending<'a>>,
    tasks: Vec<Task<'a>>,
    error: Option<CaveatError>,
    has_surplus: bool,
    /// Of the pattern being compiled: whether its captures have slots, how many there are, and whether there is
    /// a dictionary pattern with several entries.
    keeps_captures: bool,
    slots: u32,
    has_dictionary: bool,
    /// Where the pieces of the template being compiled begin.
    template_start: usize,
}

impl Default for Compiler<'_> {
    fn default() -> Self {
        let empty = List { steps: 0..0, source: Span { start: 0, length: 0 } };
        Compiler {
            program: Program { lists: vec![empty], ..Program::default() },
            source: Vec::new(),
            shift: 0,
            pending: Vec::new(),
            tasks: Vec::new(),
            error: None,
            has_surplus: false,
            keeps_captures: false,
            slots: 0,
            has_dictionary: false,
            template_start: 0,
        }
    }
}

impl<'a> Compiler<'a> {
    fn nested_list(&mut self, pending: Pending<'a>) -> Result<(), CaveatError> {
        self.shift = pending.shift;
        let start = self.program.steps.len() as u32;
        for caveat in pending.items.children() {
            self.step(caveat)?;
        }
        let source = self.span(pending.items);
        let steps = start..self.program.steps.len() as u32;
        self.program.lists[pending.list as usize] = List { steps, source };
        Ok(())
    }

    /// The next caveat of the list that is being compiled.
    fn step(&mut self, caveat: View<'a>) -> Result<(), CaveatError> {
        let step = self.caveat(caveat)?;
        self.program.steps.push(step);
        self.program.digests.push(digest(caveat.span()));
        Ok(())
    }

    fn caveat(&mut self, caveat: View<'a>) -> Result<Step, CaveatError> {
        let p = &self.program;
        let lengths = (p.lists.len(), p.rules.len(), p.ops.len(), p.pieces.len(), p.pool.len());
        let (pending, has_surplus) = (self.pending.len(), self.has_surplus);
        match self.known_caveat(caveat) {
            Ok(step) => self.error.map_or(Ok(step), Err),
            Err(Malformed) => {
                let p = &mut self.program;
                p.lists.truncate(lengths.0);
                p.rules.truncate(lengths.1);
                p.ops.truncate(lengths.2);
                p.pieces.truncate(lengths.3);
                p.pool.truncate(lengths.4);
                self.pending.truncate(pending);
                self.has_surplus = has_surplus;
                self.error = None;
                self.tasks.clear();
                Ok(Step::Unknown)
            }
        }
    }

    fn known_caveat(&mut self, caveat: View<'a>) -> Result<Step, Malformed> {
        let label = caveat.label().and_then(View::as_symbol).ok_or(Malformed)?;
        let first_rule = self.program.rules.len() as u32;
        match label {
            "rewrite" => self.rule(caveat)?,
            "or" => {
                let [rules] = self.fields(caveat)?;
                for rule in items(rules, tag::SEQUENCE)? {
                    if !rule.label().is_some_and(|l| l.is_symbol("rewrite")) {
                        return Err(Malformed);
                    }
                    self.rule(rule)?;
                }
            }
            "reject" => {
                let [pattern] = self.fields(caveat)?;
                self.keeps_captures = false;
                return Ok(Step::Reject(self.pattern(pattern)?));
            }
            _ => return Err(Malformed),
        }
        Ok(Step::Rewrite(first_rule..self.program.rules.len() as u32))
    }

    fn rule(&mut self, rewrite: View<'a>) -> Result<(), Malformed> {
        let [pattern_view, template_view] = self.fields(rewrite)?;
        self.keeps_captures = true;
        self.slots = 0;
        self.has_dictionary = false;
        let pattern = self.pattern(pattern_view)?;
        if self.has_dictionary && self.slots > 1 {
            self.renumber(pattern_view, &pattern);
        }
        self.template_start = self.program.pieces.len();
        self.tasks.push(Task::Template(template_view));
        self.work_off()?;
        let template = self.template_start as u32..self.program.pieces.len() as u32;
        self.program.rules.push(Rule { pattern, slots: self.slots, template });
        Ok(())
    }

    fn pattern(&mut self, pattern: View<'a>) -> Result<std::ops::Range<u32>, Malformed> {
        let start = self.program.ops.len() as u32;
        self.tasks.push(Task::Pattern { pattern, negated: false });
        self.work_off()?;
        Ok(start..self.program.ops.len() as u32)
    }

    fn work_off(&mut self) -> Result<(), Malformed> {
        while let Some(task) = self.tasks.pop() {
            match task {
                Task::Pattern { pattern, negated } => self.pattern_node(pattern, negated)?,
                Task::Conjuncts { first, negated } => {
                    if let Some(first) = first.next_sibling() {
                        self.tasks.push(Task::Conjuncts { first, negated });
                    }
                    self.tasks.push(Task::Pattern { pattern: first, negated });
                }
                Task::PatternItems { first, negated } => {
                    if let Some(first) = first.next_sibling() {
                        self.tasks.push(Task::PatternItems { first, negated });
                        self.tasks.push(Task::Emit(Op::NextItem));
                    }
                    self.tasks.push(Task::Pattern { pattern: first, negated });
                }
                Task::PatternEntries { key, negated } => {
                    let pattern = key.next_sibling().ok_or(Malformed)?;
                    if let Some(key) = pattern.next_sibling() {
                        self.has_dictionary = true;
                        self.tasks.push(Task::PatternEntries { key, negated });
                        self.tasks.push(Task::Emit(Op::NextKey));
                    }
                    self.program.ops.push(Op::Find(self.span(key)));
                    self.tasks.push(Task::Pattern { pattern, negated });
                }
                Task::Emit(op) => self.program.ops.push(op),
                Task::CloseNot(at) => {
                    self.program.ops[at as usize] = Op::Not(self.program.ops.len() as u32);
                    self.program.ops.push(Op::NotEnd);
                }
                Task::Template(template) => self.template_node(template)?,
                Task::TemplateItems(first) => {
                    self.tasks.extend(first.next_sibling().map(Task::TemplateItems));
                    self.tasks.push(Task::Template(first));
                }
                Task::TemplateEntries(key) => {
                    let template = key.next_sibling().ok_or(Malformed)?;
                    self.literal(key.span());
                    self.tasks.extend(template.next_sibling().map(Task::TemplateEntries));
                    self.tasks.push(Task::Template(template));
                }
                Task::CloseCompound => self.literal(&[tag::END]),
                Task::Piece(piece) => self.program.pieces.push(piece),
            }
        }
        Ok(())
    }

    fn pattern_node(&mut self, pattern: View<'a>, negated: bool) -> Result<(), Malformed> {
        if let Some(name) = pattern.as_symbol() {
            self.program.ops.push(class(name).ok_or(Malformed)?);
            return Ok(());
        }
        match pattern.label().and_then(View::as_symbol).ok_or(Malformed)? {
            "_" => {
                let [] = self.fields(pattern)?;
            }
            "bind" => {
                let [inner] = self.fields(pattern)?;
                if self.keeps_captures {
                    if negated {
                        self.error.get_or_insert(CaveatError::BindingUnderNegation);
                    }
                    self.program.ops.push(Op::Bind(self.slots));
                    self.slots += 1;
                }
                self.tasks.push(Task::Pattern { pattern: inner, negated });
            }
            "and" => {
                let [patterns] = self.fields(pattern)?;
                let first = items(patterns, tag::SEQUENCE)?.next();
                self.tasks.extend(first.map(|first| Task::Conjuncts { first, negated }));
            }
            "not" => {
                let [inner] = self.fields(pattern)?;
                let at = self.program.ops.len() as u32;
                self.program.ops.push(Op::Not(at));
                self.tasks.push(Task::CloseNot(at));
                self.tasks.push(Task::Pattern { pattern: inner, negated: true });
            }
            "lit" => {
                let [value] = self.fields(pattern)?;
                self.program.ops.push(Op::Literal(self.span(value)));
            }
            "rec" => {
                let [label, patterns] = self.fields(pattern)?;
                let label = self.span(label);
                let first = items(patterns, tag::SEQUENCE)?.next();
                self.enter(first, Op::EmptyRecord(label), Op::EnterRecord(label), negated);
            }
            "arr" => {
                let [patterns] = self.fields(pattern)?;
                let first = items(patterns, tag::SEQUENCE)?.next();
                self.enter(first, Op::EmptySequence, Op::EnterSequence, negated);
            }
            "dict" => {
                let [entries] = self.fields(pattern)?;
                match items(entries, tag::DICTIONARY)?.next() {
                    None => self.program.ops.push(Op::Tag(tag::DICTIONARY)),
                    Some(key) => {
                        self.program.ops.push(Op::EnterDictionary);
                        self.tasks.push(Task::Emit(Op::LeaveDictionary));
                        self.tasks.push(Task::PatternEntries { key, negated });
                    }
                }
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn enter(&mut self, first: Option<View<'a>>, empty: Op, enter: Op, negated: bool) {
        let Some(first) = first else { return self.program.ops.push(empty) };
        self.program.ops.push(enter);
        self.tasks.push(Task::Emit(Op::LeaveItems));
        self.tasks.push(Task::PatternItems { first, negated });
    }

    fn template_node(&mut self, template: View<'a>) -> Result<(), Malformed> {
        match template.label().and_then(View::as_symbol).ok_or(Malformed)? {
            "attenuate" => {
                let [inner, list] = self.fields(template)?;
                items(list, tag::SEQUENCE)?;
                let index = self.program.lists.len() as u32;
                self.program.lists.push(List { steps: 0..0, source: self.span(list) });
                self.pending.push(Pending { list: index, items: list, shift: self.shift });
                self.program.pieces.push(Piece::Mark);
                self.tasks.push(Task::Piece(Piece::Attenuate(index)));
                self.tasks.push(Task::Template(inner));
            }
            "ref" => {
                let [index] = self.fields(template)?;
                if index.tag() != tag::INTEGER {
                    return Err(Malformed);
                }
                match index.as_i64().and_then(|i| u32::try_from(i).ok()).filter(|i| *i < self.slots) {
                    Some(slot) => self.program.pieces.push(Piece::Capture(slot)),
                    None => {
                        self.error.get_or_insert(CaveatError::UnboundRef);
                    }
                }
            }
            "lit" => {
                let [value] = self.fields(template)?;
                self.literal(value.span());
            }
            "rec" => {
                let [label, templates] = self.fields(template)?;
                let first = items(templates, tag::SEQUENCE)?.next();
                self.literal(&[tag::RECORD]);
                self.literal(label.span());
                self.tasks.push(Task::CloseCompound);
                self.tasks.extend(first.map(Task::TemplateItems));
            }
            "arr" => {
                let [templates] = self.fields(template)?;
                let first = items(templates, tag::SEQUENCE)?.next();
                self.literal(&[tag::SEQUENCE]);
                self.tasks.push(Task::CloseCompound);
                self.tasks.extend(first.map(Task::TemplateItems));
            }
            "dict" => {
                let [entries] = self.fields(template)?;
                let first = items(entries, tag::DICTIONARY)?.next();
                self.literal(&[tag::DICTIONARY]);
                self.tasks.push(Task::CloseCompound);
                self.tasks.extend(first.map(Task::TemplateEntries));
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// Bytes that the template yields as they are; adjacent ones become one piece.
    fn literal(&mut self, bytes: &[u8]) {
        let p = &mut self.program;
        let (start, length) = (p.pool.len() as u32, bytes.len() as u32);
        p.pool.extend_from_slice(bytes);
        if let Some(Piece::Copy(span)) = p.pieces[self.template_start..].last_mut() {
            span.length += length;
        } else {
            p.pieces.push(Piece::Copy(Span { start, length }));
        }
    }

    /// Gives the slots of a pattern their numbers. They were counted in the order of the source, in which
    /// dictionary keys stand by their canonical bytes; what counts is the total order of keys.
    fn renumber(&mut self, pattern: View<'a>, ops: &std::ops::Range<u32>) {
        let mut tokens = Vec::new();
        let mut todo = vec![pattern];
        while let Some(at) = todo.pop() {
            let Some(name) = at.label().and_then(View::as_symbol) else { continue };
            let mut fields = at.fields();
            let inner_start = todo.len();
            match name {
                "bind" => {
                    tokens.push(at.token());
                    todo.extend(fields.next());
                }
                "and" | "arr" => todo.extend(fields.next().into_iter().flat_map(View::children)),
                "rec" => todo.extend(fields.nth(1).into_iter().flat_map(View::children)),
                "dict" => todo.extend(fields.next().into_iter().flat_map(patterns_by_key)),
                _ => {}
            }
            todo[inner_start..].reverse();
        }
        let mut by_position: Vec<(u32, u32)> = tokens.into_iter().zip(0..).collect();
        by_position.sort_unstable();
        let mut slots = by_position.into_iter().map(|(_, slot)| slot);
        for op in &mut self.program.ops[ops.start as usize..ops.end as usize] {
            if let Op::Bind(slot) = op {
                *slot = slots.next().unwrap_or(*slot);
            }
        }
    }

    /// The first `N` fields of a record; notes whether there are more.
    fn fields<const N: usize>(&mut self, record: View<'a>) -> Result<[View<'a>; N], Malformed> {
        let mut all = record.fields();
        let mut first = [record; N];
        for field in &mut first {
            *field = all.next().ok_or(Malformed)?;
        }
        self.has_surplus |= all.next().is_some();
        Ok(first)
    }

    fn span(&self, view: View<'_>) -> Span {
        let start = (view.start() as u32).wrapping_add(self.shift);
        Span { start, length: view.span().len() as u32 }
    }
}

/// What stands in a compound of this kind.
fn items(view: View<'_>, kind: u8) -> Result<crate::wire::Children<'_>, Malformed> {
    if view.tag() == kind { Ok(view.children()) } else { Err(Malformed) }
}

/// The values in a dictionary, in the total order of their keys.
fn patterns_by_key(entries: View<'_>) -> Vec<View<'_>> {
    let mut children = entries.children();
    let mut sorted = Vec::new();
    while let (Some(key), Some(value)) = (children.next(), children.next()) {
        let mut order = Vec::new();
        sort_key(key, &mut order);
        sorted.push((order, value));
    }
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    sorted.into_iter().map(|(_, value)| value).collect()
}

fn class(name: &str) -> Option<Op> {
    Some(match name {
        "Boolean" => Op::Boolean,
        "Double" => Op::Tag(tag::IEEE754),
        "SignedInteger" => Op::Tag(tag::INTEGER),
        "String" => Op::Tag(tag::STRING),
        "ByteString" => Op::Tag(tag::BYTES),
        "Symbol" => Op::Tag(tag::SYMBOL),
        "Embedded" => Op::Tag(tag::EMBEDDED),
        _ => return None,
    })
}
