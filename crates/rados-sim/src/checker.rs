//! What must hold at the end, whatever happened.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::ObjectKey;

/// Remembers what clients did and were told, and compares it with what is stored.
#[derive(Debug, Default)]
pub struct Checker {
    objects: BTreeMap<ObjectKey, Expected>,
    reads: Vec<Read>,
    violations: Vec<String>,
    acknowledged: usize,
}

#[derive(Debug, Default)]
struct Expected {
    /// Records in the order of submission, by client.
    submitted: BTreeMap<usize, Vec<u64>>,
    acknowledged: BTreeSet<u64>,
    failed: BTreeMap<u64, String>,
}

#[derive(Debug)]
struct Read {
    object: ObjectKey,
    /// What had been acknowledged when it was submitted.
    must_see: BTreeSet<u64>,
    saw: Vec<u64>,
}

impl Checker {
    /// A client submits a record.
    pub fn submitted(&mut self, client: usize, object: &ObjectKey, record: u64) {
        self.objects.entry(object.clone()).or_default().submitted.entry(client).or_default().push(record);
    }

    /// A client is told how it went.
    pub fn answered(&mut self, object: &ObjectKey, record: u64, result: Result<(), String>) {
        let expected = self.objects.entry(object.clone()).or_default();
        match result {
            Ok(()) => {
                self.acknowledged += 1;
                expected.acknowledged.insert(record);
            }
            Err(error) => drop(expected.failed.insert(record, error)),
        }
    }

    /// What a read that is submitted now has to see.
    #[must_use]
    pub fn acknowledged_in(&self, object: &ObjectKey) -> BTreeSet<u64> {
        self.objects.get(object).map(|expected| expected.acknowledged.clone()).unwrap_or_default()
    }

    /// A read has ended.
    pub fn read(&mut self, object: &ObjectKey, must_see: BTreeSet<u64>, saw: Vec<u64>) {
        self.reads.push(Read { object: object.clone(), must_see, saw });
    }

    /// Some other rule was broken.
    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.acknowledged
    }

    /// Reads that ended.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.reads.len()
    }

    /// Compares with what is stored; returns what is wrong.
    #[must_use]
    pub fn check(&self, stored: &BTreeMap<ObjectKey, Vec<u64>>) -> Vec<String> {
        let mut wrong = self.violations.clone();
        let nothing = Vec::new();
        for (object, expected) in &self.objects {
            let name = &object.2;
            let records = stored.get(object).unwrap_or(&nothing);
            let mut seen = BTreeSet::new();
            for record in records {
                if !seen.insert(*record) {
                    wrong.push(format!("record {record} was applied twice to {name}"));
                }
            }
            for record in expected.acknowledged.difference(&seen) {
                wrong.push(format!("record {record} of {name} was acknowledged and is lost"));
            }
            for (record, error) in &expected.failed {
                wrong.push(format!("record {record} of {name} failed: {error}"));
            }
            let mut of_clients = 0;
            for (client, submitted) in &expected.submitted {
                let place: BTreeMap<u64, usize> =
                    submitted.iter().enumerate().map(|(i, id)| (*id, i)).collect();
                let places: Vec<usize> = records.iter().filter_map(|id| place.get(id).copied()).collect();
                of_clients += places.len();
                if places.windows(2).any(|pair| pair[0] > pair[1]) {
                    wrong.push(format!("records of client {client} in {name} are out of order: {places:?}"));
                }
                let known = expected.acknowledged.len() + expected.failed.len();
                let all: usize = expected.submitted.values().map(Vec::len).sum();
                if known != all {
                    wrong.push(format!("{name}: {all} records submitted, {known} answered"));
                }
            }
            if of_clients != records.len() {
                wrong.push(format!("{name} has {} records, {of_clients} of them known", records.len()));
            }
        }
        for Read { object, must_see, saw } in &self.reads {
            let records = stored.get(object).unwrap_or(&nothing);
            if !records.starts_with(saw) {
                wrong.push(format!("a read of {} saw {saw:?}, which never was its contents", object.2));
            }
            let saw: BTreeSet<u64> = saw.iter().copied().collect();
            let missing: Vec<_> = must_see.difference(&saw).collect();
            if !missing.is_empty() {
                wrong.push(format!("a read of {} missed acknowledged records {missing:?}", object.2));
            }
        }
        wrong
    }
}
