//! Running programs over values.

use std::ops::Range;
use std::sync::Arc;

use super::{Caveats, Op, Piece, Program, Span, Step};
use crate::wire::{Limits, Progress, Scanner, View, tag};

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It passes as it is.
    Unchanged,
    /// Another value passes in its place: see [`Scratch::view`].
    Rewritten,
    /// Nothing passes.
    Dropped,
}

/// What [`Caveats::apply`] works in: reusable, allocating only while it grows, one per worker.
///
/// It holds the value rewritten last, and the two bounds that are described in the module's documentation.
#[derive(Debug)]
pub struct Scratch {
    machine: Machine,
    current: Stage,
    next: Stage,
}

/// A value that a caveat yielded.
#[derive(Debug)]
struct Stage {
    bytes: Vec<u8>,
    scanner: Scanner,
}

/// The registers of the matching machine.
#[derive(Debug)]
struct Machine {
    /// What was captured, as tokens.
    slots: Vec<u32>,
    /// The compounds that were entered, as tokens.
    entered: Vec<u32>,
    /// The `not`s that were begun.
    negations: Vec<Negation>,
    /// Where the arguments of `attenuate` began.
    marks: Vec<usize>,
    work_max: u64,
    work_left: u64,
}

/// How to go on when what is under a `not` fails.
#[derive(Debug, Clone, Copy)]
struct Negation {
    end: u32,
    at: u32,
    entered: u32,
}

impl Scratch {
    /// A place to work in where no caveat can yield a value of more than `output_bytes_max` bytes, or one that
    /// breaks another of the default [`Limits`]: such a value is dropped.
    pub fn new(output_bytes_max: u32) -> Scratch {
        Scratch::with_limits(Limits { packet_bytes_max: output_bytes_max, ..Limits::default() })
    }

    /// The same, with all the limits on what a caveat may yield.
    ///
    /// The work for one value is bounded too: to four times what reading or copying the longest output takes,
    /// and at least a million steps of the machine. A value that takes more is dropped.
    pub fn with_limits(limits: Limits) -> Scratch {
        let work_max = 4 * cost(limits.packet_bytes_max as usize) + (1 << 20);
        let stage = || Stage { bytes: Vec::new(), scanner: Scanner::new(limits) };
        let machine = Machine {
            slots: Vec::new(),
            entered: Vec::new(),
            negations: Vec::new(),
            marks: Vec::new(),
            work_max,
            work_left: 0,
        };
        Scratch { machine, current: stage(), next: stage() }
    }

    /// The value that passes, after [`Outcome::Rewritten`]; canonical. Empty or stale after anything else.
    pub fn output(&self) -> &[u8] {
        &self.current.bytes
    }

    /// The same, scanned.
    ///
    /// # Panics
    /// Reading it may panic if the last outcome was not [`Outcome::Rewritten`].
    pub fn view(&self) -> View<'_> {
        self.current.scanner.view(&self.current.bytes)
    }

    /// Gives back memory beyond what ordinary values need.
    pub fn shrink(&mut self) {
        for stage in [&mut self.current, &mut self.next] {
            stage.bytes.clear();
            stage.bytes.shrink_to(4096);
            stage.scanner.reset();
            stage.scanner.shrink();
        }
        self.machine.slots.clear();
        self.machine.slots.shrink_to(64);
    }
}

/// The work that reading or copying so many bytes counts as; a step of the machine is 1.
fn cost(bytes: usize) -> u64 {
    bytes as u64 / 16
}

/// How a capability is attenuated: the embedded value (all its bytes) and the caveats to append; yields the
/// embedded value that stands for the attenuated capability, or `None` to drop what holds it.
pub type Attenuate<'f> = dyn FnMut(&[u8], &Caveats) -> Option<Vec<u8>> + 'f;

impl Caveats {
    /// What these caveats let pass of a canonical `value`. The result, if it is another value, is in `scratch`.
    ///
    /// `attenuate` makes attenuated capabilities: it gets the bytes of an embedded value and the caveats to
    /// append to it, and returns the bytes of the embedded value for the result, or `None` to drop the value
    /// that it would have stood in. It may be called although the value is dropped afterwards.
    ///
    /// Costs, for each caveat from the newest to the oldest: one step per instruction of its patterns at most,
    /// plus the dictionary entries looked through; a copy and a scan of what it yields. A rewrite that yields
    /// the very value it got costs no copy. No allocation, except to grow `scratch` and by `attenuate`.
    pub fn apply(&self, value: View<'_>, scratch: &mut Scratch, attenuate: &mut Attenuate<'_>) -> Outcome {
        let Scratch { machine, current, next } = scratch;
        machine.work_left = machine.work_max;
        let mut outcome = Outcome::Unchanged;
        for segment in self.segments.iter().rev() {
            let program = &segment.program;
            let steps = &program.lists[segment.list as usize].steps;
            for step in program.steps[steps.start as usize..steps.end as usize].iter().rev() {
                let value = match outcome {
                    Outcome::Rewritten => current.scanner.view(&current.bytes),
                    _ => value,
                };
                match machine.run(program, step, value, next, attenuate) {
                    Outcome::Unchanged => continue,
                    Outcome::Rewritten if next.scan() => std::mem::swap(current, next),
                    _ => return Outcome::Dropped,
                }
                outcome = Outcome::Rewritten;
            }
        }
        outcome
    }
}

impl Stage {
    /// Whether it holds one value within the limits, in canonical form.
    fn scan(&mut self) -> bool {
        self.scanner.reset();
        self.scanner.scan(&self.bytes) == Ok(Progress::Complete(self.bytes.len()))
            && self.scanner.is_canonical()
    }

    fn bytes_max(&self) -> usize {
        self.scanner.limits().packet_bytes_max as usize
    }
}

/// The bound on work was reached.
struct Exhausted;

impl Machine {
    fn spend(&mut self, work: u64) -> Result<(), Exhausted> {
        self.work_left = self.work_left.checked_sub(work).ok_or(Exhausted)?;
        Ok(())
    }

    /// Applies one caveat. What it yields in place of the value stands in `next` then.
    #[inline]
    fn run(
        &mut self,
        program: &Arc<Program>,
        step: &Step,
        value: View<'_>,
        next: &mut Stage,
        attenuate: &mut Attenuate<'_>,
    ) -> Outcome {
        let rules = match step {
            Step::Unknown => return Outcome::Dropped,
            Step::Reject(pattern) => {
                return match self.matches(program, pattern, value) {
                    Ok(false) => Outcome::Unchanged,
                    Ok(true) | Err(Exhausted) => Outcome::Dropped,
                };
            }
            Step::Rewrite(rules) => &program.rules[rules.start as usize..rules.end as usize],
        };
        for rule in rules {
            if self.slots.len() < rule.slots as usize {
                self.slots.resize(rule.slots as usize, 0);
            }
            match self.matches(program, &rule.pattern, value) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(Exhausted) => return Outcome::Dropped,
            }
            let template = &program.pieces[rule.template.start as usize..rule.template.end as usize];
            if let [Piece::Capture(slot)] = template
                && self.slots[*slot as usize] == value.token()
            {
                return Outcome::Unchanged;
            }
            return match self.instantiate(program, template, value, next, attenuate) {
                // Put together again as it was: that need not be scanned.
                Some(()) if next.bytes == value.span() => Outcome::Unchanged,
                Some(()) => Outcome::Rewritten,
                None => Outcome::Dropped,
            };
        }
        Outcome::Dropped
    }

    /// Whether a pattern matches.
    #[inline]
    fn matches(
        &mut self,
        program: &Program,
        pattern: &Range<u32>,
        value: View<'_>,
    ) -> Result<bool, Exhausted> {
        self.entered.clear();
        self.negations.clear();
        let mut at = value;
        let mut next_op = pattern.start;
        while next_op < pattern.end {
            let op = program.ops[next_op as usize];
            next_op += 1;
            self.spend(1)?;
            if self.step(program, op, &mut at)? {
                continue;
            }
            // A failure is a success for the innermost `not` around it.
            let Some(not) = self.negations.pop() else { return Ok(false) };
            self.entered.truncate(not.entered as usize);
            at = at.at(not.at);
            next_op = not.end + 1;
        }
        debug_assert!(at.token() == value.token() && self.entered.is_empty() && self.negations.is_empty());
        Ok(true)
    }

    /// One instruction; false if it fails.
    #[inline]
    fn step(&mut self, program: &Program, op: Op, at: &mut View<'_>) -> Result<bool, Exhausted> {
        let first = at.tag();
        Ok(match op {
            Op::Boolean => first == tag::FALSE || first == tag::TRUE,
            Op::Tag(expected) => first == expected,
            Op::Literal(span) => {
                self.spend(cost(span.length as usize))?;
                at.span() == program.source_at(span)
            }
            Op::Bind(slot) => {
                self.slots[slot as usize] = at.token();
                true
            }
            Op::EmptyRecord(label) => {
                self.spend(cost(label.length as usize))?;
                at.label().is_some_and(|l| l.span() == program.source_at(label) && l.next_sibling().is_none())
            }
            Op::EmptySequence => first == tag::SEQUENCE && at.first_child().is_none(),
            Op::EnterRecord(label) => {
                self.spend(cost(label.length as usize))?;
                let label = at.label().filter(|l| l.span() == program.source_at(label));
                self.enter(at, label.and_then(View::next_sibling))
            }
            Op::EnterSequence => first == tag::SEQUENCE && self.enter(at, at.first_child()),
            Op::EnterDictionary => first == tag::DICTIONARY && self.enter(at, at.first_child()),
            Op::NextItem | Op::NextKey => match at.next_sibling() {
                Some(next) => {
                    *at = next;
                    true
                }
                None => false,
            },
            Op::LeaveItems if at.next_sibling().is_some() => false,
            Op::LeaveItems | Op::LeaveDictionary => match self.entered.pop() {
                Some(compound) => {
                    *at = at.at(compound);
                    true
                }
                None => false,
            },
            Op::Find(key) => self.find(program.source_at(key), at)?,
            Op::Not(end) => {
                self.negations.push(Negation { end, at: at.token(), entered: self.entered.len() as u32 });
                true
            }
            Op::NotEnd => {
                self.negations.pop();
                false
            }
        })
    }

    fn enter<'a>(&mut self, at: &mut View<'a>, inner: Option<View<'a>>) -> bool {
        let Some(inner) = inner else { return false };
        self.entered.push(at.token());
        *at = inner;
        true
    }

    /// Goes from a key to the value of `key`, there or further on. Keys stand in the order of their bytes.
    fn find(&mut self, key: &[u8], at: &mut View<'_>) -> Result<bool, Exhausted> {
        loop {
            self.spend(1 + cost(key.len()))?;
            let Some(value) = at.next_sibling() else { return Ok(false) };
            match at.span().cmp(key) {
                std::cmp::Ordering::Equal => {
                    *at = value;
                    return Ok(true);
                }
                std::cmp::Ordering::Greater => return Ok(false),
                std::cmp::Ordering::Less => match value.next_sibling() {
                    Some(next) => *at = next,
                    None => return Ok(false),
                },
            }
        }
    }

    /// Writes what a template yields into `next`; `None` if that is nothing, or too much.
    fn instantiate(
        &mut self,
        program: &Arc<Program>,
        template: &[Piece],
        value: View<'_>,
        next: &mut Stage,
        attenuate: &mut Attenuate<'_>,
    ) -> Option<()> {
        self.marks.clear();
        let bytes_max = next.bytes_max();
        let out = &mut next.bytes;
        out.clear();
        for piece in template {
            match *piece {
                Piece::Copy(Span { start, length }) => {
                    append(out, &program.pool[start as usize..(start + length) as usize], bytes_max)?;
                }
                Piece::Capture(slot) => {
                    append(out, value.at(self.slots[slot as usize]).span(), bytes_max)?;
                }
                Piece::Mark => self.marks.push(out.len()),
                Piece::Attenuate(list) => {
                    let start = self.marks.pop()?;
                    if out.get(start) != Some(&tag::EMBEDDED) {
                        return None;
                    }
                    let attenuated = attenuate(&out[start..], &Caveats::of_list(program, list))?;
                    out.truncate(start);
                    append(out, &attenuated, bytes_max)?;
                }
            }
        }
        // Once for the copy, once for the scan that follows.
        self.spend(template.len() as u64 + 2 * cost(out.len())).ok()
    }
}

fn append(out: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) -> Option<()> {
    if bytes.len() > bytes_max - out.len() {
        return None;
    }
    out.extend_from_slice(bytes);
    Some(())
}
