//! Keeps what tract may do from reaching the caller: panics become errors, exploding constants are refused first, and
//! how long a call has been going on can be seen from outside.

use super::error;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::onnx::graph::plain_name;
use crate::onnx::{ElementType, GraphProto, Model, NodeProto, Origin, Scope, Values};
use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};
use tract_onnx::prelude::TractResult;

/// The longest message that is taken over from tract, in characters: it may print whole graphs.
const MESSAGE: usize = 300;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Calls into tract. Its errors and panics become one-line errors that say what was being done.
pub(super) fn call<T>(doing: &str, work: impl FnOnce() -> TractResult<T>) -> Result<T> {
    silence_hook();
    let _going_on = Call::begin();
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(error(format!("{doing}: {}", one_line(&format!("{e:#}"))))),
        Err(panic) => Err(panicked(doing, panic_message(&*panic))),
    }
}

fn panicked(doing: &str, message: &str) -> Error {
    // tract's words where the allocator refuses: the one panic that is about the size of the model, not about tract.
    let kind = if message.starts_with("failed to allocate") { ErrorKind::Limit } else { ErrorKind::Engine };
    Error::new(kind, format!("{doing}: tract panicked: {}", one_line(message)))
}

/// When each call into tract that is going on began, by its number: the first entry is the oldest.
static CALLS: Mutex<BTreeMap<u64, Instant>> = Mutex::new(BTreeMap::new());

/// A call into tract that is going on.
struct Call(u64);

impl Call {
    fn begin() -> Call {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted under the lock, so that numbers and times are in the same order.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        calls.insert(number, Instant::now());
        Call(number)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        CALLS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Duration so far of the longest current call into the engine, in this process.
///
/// A thread cannot be interrupted, so neither can a call. To bound it, call this from another thread and end the process
/// that the engine runs in.
pub fn longest_call() -> Option<Duration> {
    let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    calls.first_key_value().map(|(_, began)| began.elapsed())
}

/// A panic that is caught here is not a message for the terminal. Other panics are printed as before.
fn silence_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                hook(info);
            }
        }));
    });
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(MESSAGE) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}

/// Refuses a model in which a constant shape asks for more than [`limits::RUN_ELEMENTS`], before tract folds it.
pub(super) fn check_constants(model: &Model) -> Result<()> {
    let values = Values::new(&model.proto)?;
    for (scope, graph) in model.graphs() {
        for (index, node) in graph.node.iter().enumerate() {
            let Some(elements) = asked_for(model, &values, &scope, node) else { continue };
            if elements > u128::from(limits::RUN_ELEMENTS) {
                let message = format!(
                    "asks for {elements} elements, more than the {} that one tensor may have when a model is run",
                    limits::RUN_ELEMENTS
                );
                return Err(Error::new(ErrorKind::Limit, message).at_node(plain_name(node, index)));
            }
        }
    }
    Ok(())
}

/// The least number of elements that a node with a constant shape makes.
fn asked_for(model: &Model, values: &Values, scope: &Scope, node: &NodeProto) -> Option<u128> {
    let input = match node.op_type() {
        "ConstantOfShape" => 0,
        "Expand" | "Tile" => 1,
        _ => return None,
    };
    let shape = constant(model, values, scope, node.input.get(input)?)?;
    Some(shape.iter().fold(1u128, |product, &d| product.saturating_mul(u128::try_from(d).unwrap_or(0))))
}

fn constant(model: &Model, values: &Values, scope: &Scope, name: &str) -> Option<Vec<i64>> {
    let definition = values.resolve(scope, name)?;
    let tensor = match definition.origin {
        Origin::Initializer(_) => model.initializer(definition)?,
        Origin::Node { node, .. } => constant_of(model.graph(&definition.scope), node)?,
        _ => return None,
    };
    if ElementType::of(tensor).ok()? != ElementType::Int64 {
        return None;
    }
    // A constant that cannot be read is refused where it is used.
    Some(model.integers(tensor).ok()?.into_iter().collect())
}

fn constant_of(graph: &GraphProto, node: usize) -> Option<&crate::onnx::TensorProto> {
    let node = graph.node.get(node).filter(|n| n.op_type() == "Constant")?;
    node.attribute.iter().find(|a| a.name() == "value")?.t.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_of_one_line() {
        let e = call("planning", || -> TractResult<()> { panic!("first\nsecond {}", "x".repeat(1000)) }).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Engine);
        assert!(e.message().starts_with("planning: tract panicked: first second xxx"));
        assert!(e.message().len() < 400);
    }

    #[test]
    fn a_call_can_be_seen_while_it_goes_on() {
        call("planning", || {
            std::thread::sleep(Duration::from_millis(20));
            assert!(longest_call().is_some_and(|d| d >= Duration::from_millis(20)));
            Ok(())
        })
        .unwrap();
    }
}
