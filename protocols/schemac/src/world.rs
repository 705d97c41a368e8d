//! All modules together, with what must be known of each definition to write its type.

use std::collections::{BTreeMap, BTreeSet};

use crate::schema::{Body, Definition, Module, Pattern, Place, Reference};

/// A definition: the index of its module, and its index in that.
pub(crate) type Id = (usize, usize);

/// All modules of one run of the compiler.
pub(crate) struct World<'m> {
    pub(crate) modules: &'m [Module],
    /// The first definition of each name.
    by_name: BTreeMap<(&'m str, &'m str), Id>,
    /// Definitions with an embedded value in them, or in what they refer to.
    embedding: BTreeSet<Id>,
    /// For each definition, all that it holds without a collection in between.
    holds: BTreeMap<Id, BTreeSet<Id>>,
}

impl<'m> World<'m> {
    pub(crate) fn new(modules: &'m [Module]) -> World<'m> {
        let mut world =
            World { modules, by_name: BTreeMap::new(), embedding: BTreeSet::new(), holds: BTreeMap::new() };
        for id in world.ids() {
            let (module, definition) = world.get(id);
            world.by_name.entry((&module.name, &definition.name)).or_insert(id);
        }
        world.find_embedding();
        world.find_holds();
        world
    }

    /// Every definition, in order.
    pub(crate) fn ids(&self) -> Vec<Id> {
        let of = |(m, module): (usize, &Module)| (0..module.definitions.len()).map(move |d| (m, d));
        self.modules.iter().enumerate().flat_map(of).collect()
    }

    pub(crate) fn get(&self, id: Id) -> (&'m Module, &'m Definition) {
        let module = &self.modules[id.0];
        (module, &module.definitions[id.1])
    }

    /// What a reference in module `from` refers to.
    pub(crate) fn resolve(&self, from: usize, reference: &Reference) -> Option<Id> {
        let module = reference.module.as_deref().unwrap_or(&self.modules[from].name);
        self.by_name.get(&(module, &*reference.name)).copied()
    }

    /// Whether its type has a parameter for embedded values.
    pub(crate) fn is_embedding(&self, id: Id) -> bool {
        self.embedding.contains(&id)
    }

    /// Whether a value of `inner` that stands directly in `outer` must be boxed, since it may hold another
    /// `outer`.
    pub(crate) fn is_boxed(&self, outer: Id, inner: Id) -> bool {
        inner == outer || self.holds.get(&inner).is_some_and(|all| all.contains(&outer))
    }

    /// The definitions that `id` refers to, from so far inside at most.
    fn references(&self, id: Id, deepest: Place) -> Vec<Id> {
        let mut found = Vec::new();
        for pattern in self.get(id).1.body.patterns() {
            pattern.walk(Place::Direct, &mut |inner, place| {
                if let Pattern::Reference(reference) = inner
                    && place <= deepest
                {
                    found.extend(self.resolve(id.0, reference));
                }
            });
        }
        found
    }

    fn find_embedding(&mut self) {
        let embeds = |body: &Body| {
            let mut found = false;
            for pattern in body.patterns() {
                pattern.walk(Place::Direct, &mut |inner, _| found |= matches!(inner, Pattern::Embedded(_)));
            }
            found
        };
        loop {
            let before = self.embedding.len();
            for id in self.ids() {
                let body = &self.get(id).1.body;
                let refers = || {
                    let others = self.references(id, Place::Collection);
                    others.into_iter().any(|other| self.embedding.contains(&other))
                };
                if embeds(body) || refers() {
                    self.embedding.insert(id);
                }
            }
            if self.embedding.len() == before {
                return;
            }
        }
    }

    fn find_holds(&mut self) {
        for id in self.ids() {
            let direct = self.references(id, Place::Direct);
            self.holds.insert(id, direct.into_iter().collect());
        }
        loop {
            let mut has_grown = false;
            for id in self.ids() {
                let now = &self.holds[&id];
                let more: BTreeSet<Id> = now.iter().flat_map(|other| &self.holds[other]).copied().collect();
                if !more.is_subset(now) {
                    has_grown = true;
                    self.holds.entry(id).or_default().extend(more);
                }
            }
            if !has_grown {
                return;
            }
        }
    }
}
