//! Wires for tests: a line and a sink that remember what the device did with them.

use crate::device::{ByteSink, Line};
use crate::event::{MachineEvent, MachineEvents};
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

/// Remembers its level and how often it rose.
#[derive(Default)]
pub(crate) struct TestLine(Mutex<(bool, usize)>);

impl TestLine {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn is_high(&self) -> bool {
        self.0.lock().unwrap().0
    }

    pub(crate) fn rises(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl Line for TestLine {
    fn set(&self, high: bool) {
        let mut state = self.0.lock().unwrap();
        state.1 += usize::from(high && !state.0);
        state.0 = high;
    }
}

/// Keeps the bytes it was given.
#[derive(Clone, Default)]
pub(crate) struct TestSink(Arc<Mutex<(Vec<u8>, usize)>>);

impl TestSink {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    pub(crate) fn times_input_was_wanted(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl ByteSink for TestSink {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().0.extend_from_slice(bytes);
    }

    fn input_wanted(&mut self) {
        self.0.lock().unwrap().1 += 1;
    }
}

/// Keeps the machine events raised.
#[derive(Default)]
pub(crate) struct TestEvents(Mutex<Vec<MachineEvent>>);

impl TestEvents {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn taken(&self) -> Vec<MachineEvent> {
        core::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl MachineEvents for TestEvents {
    fn raise(&self, event: MachineEvent) {
        self.0.lock().unwrap().push(event);
    }
}
