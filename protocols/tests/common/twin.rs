//! Caveats over plain trees, recursively, from the specification; and ways to make them up.

use super::tree::{Noise, Tree, capability, dictionary, rec, set, sym};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    Discard,
    Class(String),
    Bind(Box<Pattern>),
    And(Vec<Pattern>),
    Not(Box<Pattern>),
    Lit(Tree),
    Rec(Tree, Vec<Pattern>),
    Arr(Vec<Pattern>),
    Dict(Vec<(Tree, Pattern)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    Attenuate(Box<Template>, Vec<Tree>),
    Ref(i128),
    Lit(Tree),
    Rec(Tree, Vec<Template>),
    Arr(Vec<Template>),
    Dict(Vec<(Tree, Template)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caveat {
    Rewrite(Pattern, Template),
    Or(Vec<(Pattern, Template)>),
    Reject(Pattern),
    Unknown(Tree),
}

/// Label and fields of a record with a symbol for label.
fn record(tree: &Tree) -> Option<(&str, &[Tree])> {
    match tree {
        Tree::Record(label, fields) => match &**label {
            Tree::Symbol(name) => Some((name, fields)),
            _ => None,
        },
        _ => None,
    }
}

fn all<'a, T>(tree: &'a Tree, parse: impl Fn(&'a Tree) -> Option<T>) -> Option<Vec<T>> {
    match tree {
        Tree::Sequence(items) => items.iter().map(parse).collect(),
        _ => None,
    }
}

fn all_entries<T>(tree: &Tree, parse: impl Fn(&Tree) -> Option<T>) -> Option<Vec<(Tree, T)>> {
    match tree {
        Tree::Dictionary(entries) => entries.iter().map(|(k, v)| Some((k.clone(), parse(v)?))).collect(),
        _ => None,
    }
}

impl Pattern {
    fn parse(tree: &Tree) -> Option<Pattern> {
        if let Tree::Symbol(name) = tree {
            let classes =
                ["Boolean", "Double", "SignedInteger", "String", "ByteString", "Symbol", "Embedded"];
            return classes.contains(&name.as_str()).then(|| Pattern::Class(name.clone()));
        }
        Some(match record(tree)? {
            ("_", _) => Pattern::Discard,
            ("bind", [p, ..]) => Pattern::Bind(Box::new(Pattern::parse(p)?)),
            ("and", [ps, ..]) => Pattern::And(all(ps, Pattern::parse)?),
            ("not", [p, ..]) => Pattern::Not(Box::new(Pattern::parse(p)?)),
            ("lit", [v, ..]) => Pattern::Lit(v.clone()),
            ("rec", [label, ps, ..]) => Pattern::Rec(label.clone(), all(ps, Pattern::parse)?),
            ("arr", [ps, ..]) => Pattern::Arr(all(ps, Pattern::parse)?),
            ("dict", [entries, ..]) => Pattern::Dict(all_entries(entries, Pattern::parse)?),
            _ => return None,
        })
    }

    fn to_tree(&self) -> Tree {
        let trees = |ps: &[Pattern]| Tree::Sequence(ps.iter().map(Pattern::to_tree).collect());
        match self {
            Pattern::Discard => rec("_", vec![]),
            Pattern::Class(name) => sym(name),
            Pattern::Bind(p) => rec("bind", vec![p.to_tree()]),
            Pattern::And(ps) => rec("and", vec![trees(ps)]),
            Pattern::Not(p) => rec("not", vec![p.to_tree()]),
            Pattern::Lit(v) => rec("lit", vec![v.clone()]),
            Pattern::Rec(label, ps) => rec("rec", vec![label.clone(), trees(ps)]),
            Pattern::Arr(ps) => rec("arr", vec![trees(ps)]),
            Pattern::Dict(entries) => {
                let entries = entries.iter().map(|(k, p)| (k.clone(), p.to_tree()));
                rec("dict", vec![dictionary(entries.collect())])
            }
        }
    }

    /// How many captures it has; `None` if one is under a `not`.
    pub fn captures(&self) -> Option<usize> {
        match self {
            Pattern::Discard | Pattern::Class(_) | Pattern::Lit(_) => Some(0),
            Pattern::Bind(p) => Some(1 + p.captures()?),
            Pattern::Not(p) => p.captures().filter(|n| *n == 0),
            Pattern::And(ps) | Pattern::Rec(_, ps) | Pattern::Arr(ps) => {
                ps.iter().map(Pattern::captures).sum()
            }
            Pattern::Dict(entries) => entries.iter().map(|(_, p)| p.captures()).sum(),
        }
    }

    fn matches(&self, value: &Tree, captures: &mut Vec<Tree>) -> bool {
        let each = |ps: &[Pattern], values: &[Tree], captures: &mut Vec<Tree>| {
            ps.len() == values.len() && ps.iter().zip(values).all(|(p, v)| p.matches(v, captures))
        };
        match self {
            Pattern::Discard => true,
            Pattern::Class(name) => match value {
                Tree::Bool(_) => name == "Boolean",
                Tree::Double(_) => name == "Double",
                Tree::Int(_) => name == "SignedInteger",
                Tree::String(_) => name == "String",
                Tree::Bytes(_) => name == "ByteString",
                Tree::Symbol(_) => name == "Symbol",
                Tree::Embedded(_) => name == "Embedded",
                _ => false,
            },
            Pattern::Bind(p) => {
                captures.push(value.clone());
                p.matches(value, captures)
            }
            Pattern::And(ps) => ps.iter().all(|p| p.matches(value, captures)),
            Pattern::Not(p) => !p.matches(value, &mut Vec::new()),
            Pattern::Lit(v) => v == value,
            Pattern::Rec(label, ps) => {
                matches!(value, Tree::Record(l, fields) if **l == *label && each(ps, fields, captures))
            }
            Pattern::Arr(ps) => matches!(value, Tree::Sequence(items) if each(ps, items, captures)),
            Pattern::Dict(entries) => {
                let Tree::Dictionary(values) = value else { return false };
                // Entries are kept in the total order of keys.
                entries.iter().all(|(key, p)| {
                    values.iter().find(|(k, _)| k == key).is_some_and(|(_, v)| p.matches(v, captures))
                })
            }
        }
    }

    /// A pattern that would match `value`, were it not for its moods.
    pub fn generate(noise: &mut Noise, value: &Tree, depth: usize, negated: bool) -> Tree {
        let part =
            |noise: &mut Noise, v: &Tree| Pattern::generate(noise, v, depth.saturating_sub(1), negated);
        let mut fields = match noise.below(if depth == 0 { 5 } else { 14 }) {
            0 => return rec("_", vec![]),
            1 => ("lit", vec![value.clone()]),
            2 if !negated => ("bind", vec![rec("_", vec![])]),
            3 => return class_of(value),
            4 => ("lit", vec![Tree::generate(noise, 1)]),
            5 | 6 if !negated => ("bind", vec![part(noise, value)]),
            7 => ("and", vec![Tree::Sequence((0..noise.below(4)).map(|_| part(noise, value)).collect())]),
            8 => {
                let other = Tree::generate(noise, 2);
                ("not", vec![Pattern::generate(noise, &other, depth - 1, !noise.clone().one_in(30))])
            }
            _ => match value {
                Tree::Record(label, items) => {
                    let items = items.iter().map(|v| part(noise, v)).collect();
                    ("rec", vec![(**label).clone(), Tree::Sequence(items)])
                }
                Tree::Sequence(items) => {
                    let items = items.iter().map(|v| part(noise, v)).collect();
                    ("arr", vec![Tree::Sequence(items)])
                }
                Tree::Dictionary(entries) => {
                    let mut entries: Vec<_> =
                        entries.iter().map(|(k, v)| (k.clone(), part(noise, v))).collect();
                    entries.retain(|_| !noise.one_in(5));
                    ("dict", vec![dictionary(entries)])
                }
                other => return class_of(other),
            },
        };
        spoil(noise, &mut fields.1);
        rec(fields.0, fields.1)
    }
}

fn class_of(value: &Tree) -> Tree {
    sym(match value {
        Tree::Bool(_) => "Boolean",
        Tree::Double(_) => "Double",
        Tree::Int(_) => "SignedInteger",
        Tree::String(_) => "String",
        Tree::Bytes(_) => "ByteString",
        Tree::Embedded(_) => "Embedded",
        _ => "Symbol",
    })
}

/// Now and then something is wrong: a field too many, one too few, one of the wrong kind.
fn spoil(noise: &mut Noise, fields: &mut Vec<Tree>) {
    match noise.below(128) {
        127 => fields.push(Tree::Int(1)),
        126 => drop(fields.pop()),
        125 => *fields.last_mut().unwrap() = Tree::Int(0),
        _ => {}
    }
}

impl Template {
    fn parse(tree: &Tree) -> Option<Template> {
        Some(match record(tree)? {
            ("attenuate", [t, list, ..]) => {
                Template::Attenuate(Box::new(Template::parse(t)?), all(list, |c| Some(c.clone()))?)
            }
            ("ref", [Tree::Int(i), ..]) => Template::Ref(*i),
            ("lit", [v, ..]) => Template::Lit(v.clone()),
            ("rec", [label, ts, ..]) => Template::Rec(label.clone(), all(ts, Template::parse)?),
            ("arr", [ts, ..]) => Template::Arr(all(ts, Template::parse)?),
            ("dict", [entries, ..]) => Template::Dict(all_entries(entries, Template::parse)?),
            _ => return None,
        })
    }

    fn to_tree(&self) -> Tree {
        let trees = |ts: &[Template]| Tree::Sequence(ts.iter().map(Template::to_tree).collect());
        match self {
            Template::Attenuate(t, list) => {
                let list = list.iter().map(|c| Caveat::parse(c).to_tree()).collect();
                rec("attenuate", vec![t.to_tree(), Tree::Sequence(list)])
            }
            Template::Ref(i) => rec("ref", vec![Tree::Int(*i)]),
            Template::Lit(v) => rec("lit", vec![v.clone()]),
            Template::Rec(label, ts) => rec("rec", vec![label.clone(), trees(ts)]),
            Template::Arr(ts) => rec("arr", vec![trees(ts)]),
            Template::Dict(entries) => {
                let entries = entries.iter().map(|(k, t)| (k.clone(), t.to_tree()));
                rec("dict", vec![dictionary(entries.collect())])
            }
        }
    }

    fn is_valid(&self, captures: usize) -> bool {
        match self {
            Template::Attenuate(t, list) => {
                t.is_valid(captures) && list.iter().all(|c| Caveat::parse(c).is_valid())
            }
            Template::Ref(i) => (0..captures as i128).contains(i),
            Template::Lit(_) => true,
            Template::Rec(_, ts) | Template::Arr(ts) => ts.iter().all(|t| t.is_valid(captures)),
            Template::Dict(entries) => entries.iter().all(|(_, t)| t.is_valid(captures)),
        }
    }

    fn instantiate(&self, captures: &[Tree], attenuate: &Attenuate) -> Option<Tree> {
        let each = |ts: &[Template]| {
            ts.iter().map(|t| t.instantiate(captures, attenuate)).collect::<Option<Vec<_>>>()
        };
        Some(match self {
            Template::Attenuate(t, list) => {
                let cap = t.instantiate(captures, attenuate)?;
                if !matches!(cap, Tree::Embedded(_)) {
                    return None;
                }
                attenuate(&cap, list)?
            }
            Template::Ref(i) => captures[*i as usize].clone(),
            Template::Lit(v) => v.clone(),
            Template::Rec(label, ts) => Tree::Record(Box::new(label.clone()), each(ts)?),
            Template::Arr(ts) => Tree::Sequence(each(ts)?),
            Template::Dict(entries) => {
                let entries: Option<Vec<_>> = entries
                    .iter()
                    .map(|(k, t)| Some((k.clone(), t.instantiate(captures, attenuate)?)))
                    .collect();
                dictionary(entries?)
            }
        })
    }

    pub fn generate(noise: &mut Noise, captures: usize, depth: usize) -> Tree {
        let capture = |noise: &mut Noise| {
            let index = if noise.one_in(100) || captures == 0 { -1 } else { noise.below(captures) as i128 };
            if index < 0 && captures == 0 && !noise.one_in(30) {
                return rec("lit", vec![Tree::generate(noise, 1)]);
            }
            rec("ref", vec![Tree::Int(index)])
        };
        let items = |noise: &mut Noise| -> Vec<Tree> {
            (0..noise.below(4)).map(|_| Template::generate(noise, captures, depth - 1)).collect()
        };
        let mut fields = match noise.below(if depth == 0 { 4 } else { 10 }) {
            0..=2 => return capture(noise),
            3 => ("lit", vec![Tree::generate(noise, 2)]),
            4 | 5 => ("rec", vec![Tree::generate(noise, 1), Tree::Sequence(items(noise))]),
            6 => ("arr", vec![Tree::Sequence(items(noise))]),
            7 => {
                let entries = items(noise).into_iter().map(|t| (Tree::generate(noise, 1), t));
                ("dict", vec![dictionary(entries.collect())])
            }
            _ => {
                let list = (0..noise.below(3)).map(|_| Caveat::generate(noise, &Tree::Int(0), depth - 1));
                let list = Tree::Sequence(list.collect());
                let inner = match noise.below(3) {
                    0 => rec("lit", vec![capability(noise.below(5) as u64)]),
                    _ => Template::generate(noise, captures, depth - 1),
                };
                ("attenuate", vec![inner, list])
            }
        };
        spoil(noise, &mut fields.1);
        rec(fields.0, fields.1)
    }
}

/// How to attenuate a capability by a list of caveats.
pub type Attenuate<'f> = dyn Fn(&Tree, &[Tree]) -> Option<Tree> + 'f;

impl Caveat {
    pub fn parse(tree: &Tree) -> Caveat {
        Caveat::parse_known(tree).unwrap_or_else(|| Caveat::Unknown(tree.clone()))
    }

    fn parse_known(tree: &Tree) -> Option<Caveat> {
        let rewrite = |tree: &Tree| match record(tree)? {
            ("rewrite", [p, t, ..]) => Some((Pattern::parse(p)?, Template::parse(t)?)),
            _ => None,
        };
        Some(match record(tree)? {
            ("rewrite", _) => {
                let (p, t) = rewrite(tree)?;
                Caveat::Rewrite(p, t)
            }
            ("or", [rewrites, ..]) => Caveat::Or(all(rewrites, rewrite)?),
            ("reject", [p, ..]) => Caveat::Reject(Pattern::parse(p)?),
            _ => return None,
        })
    }

    /// What parsing and writing again makes of it.
    pub fn to_tree(&self) -> Tree {
        let rewrite = |p: &Pattern, t: &Template| rec("rewrite", vec![p.to_tree(), t.to_tree()]);
        match self {
            Caveat::Rewrite(p, t) => rewrite(p, t),
            Caveat::Or(rules) => {
                rec("or", vec![Tree::Sequence(rules.iter().map(|(p, t)| rewrite(p, t)).collect())])
            }
            Caveat::Reject(p) => rec("reject", vec![p.to_tree()]),
            Caveat::Unknown(tree) => tree.clone(),
        }
    }

    pub fn is_valid(&self) -> bool {
        let rule = |p: &Pattern, t: &Template| p.captures().is_some_and(|n| t.is_valid(n));
        match self {
            Caveat::Rewrite(p, t) => rule(p, t),
            Caveat::Or(rules) => rules.iter().all(|(p, t)| rule(p, t)),
            Caveat::Reject(_) | Caveat::Unknown(_) => true,
        }
    }

    pub fn apply(&self, value: &Tree, attenuate: &Attenuate) -> Option<Tree> {
        let rule = |p: &Pattern, t: &Template| {
            let mut captures = Vec::new();
            p.matches(value, &mut captures).then(|| t.instantiate(&captures, attenuate))
        };
        match self {
            Caveat::Rewrite(p, t) => rule(p, t)?,
            Caveat::Or(rules) => rules.iter().find_map(|(p, t)| rule(p, t))?,
            Caveat::Reject(p) => (!p.matches(value, &mut Vec::new())).then(|| value.clone()),
            Caveat::Unknown(_) => None,
        }
    }

    /// A caveat that has something to do with `value`.
    pub fn generate(noise: &mut Noise, value: &Tree, depth: usize) -> Tree {
        let rewrite = |noise: &mut Noise, value: &Tree| {
            let pattern = Pattern::generate(noise, value, depth, false);
            let captures = Pattern::parse(&pattern).and_then(|p| p.captures()).unwrap_or(1);
            let mut fields = vec![pattern, Template::generate(noise, captures, depth)];
            spoil(noise, &mut fields);
            rec("rewrite", fields)
        };
        match noise.below(10) {
            0..5 => rewrite(noise, value),
            5..7 => {
                let count = noise.below(4);
                let rules = (0..count).map(|i| {
                    let other = if i + 1 < count { Tree::generate(noise, 2) } else { value.clone() };
                    rewrite(noise, &other)
                });
                let mut fields = vec![Tree::Sequence(rules.collect())];
                spoil(noise, &mut fields);
                rec("or", fields)
            }
            7..9 => {
                let other = if noise.one_in(2) { value.clone() } else { Tree::generate(noise, 2) };
                let mut fields = vec![Pattern::generate(noise, &other, depth, false)];
                spoil(noise, &mut fields);
                rec("reject", fields)
            }
            _ if noise.one_in(4) => set(vec![Tree::generate(noise, 2)]),
            _ => rec("reject", vec![rec("lit", vec![Tree::Int(77)])]),
        }
    }
}
