//! The inverse of a table that is looked up in codes: finds the Gather of dense rows that it replaced.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ndarray::{ArcArray2, Array2, ArrayD};

use super::found::{changed, constant};
use crate::error::Result;
use crate::onnx::graph::is_standard;
use crate::onnx::{ElementType, Model, NodeProto, Scope, Use, Values};
use crate::recurrent::Constants;

/// A table that is looked up in codes.
#[derive(Clone, Debug)]
pub struct FoundTable {
    /// The graph of the nodes that look it up.
    pub scope: Scope,
    /// These nodes, to be removed.
    pub nodes: Vec<usize>,
    /// The node before which the Gather goes.
    pub before: usize,
    /// The indices.
    pub indices: String,
    /// The value that the nodes make.
    pub output: String,
    /// The rows.
    pub table: ArcArray2<f32>,
    /// Their element type.
    pub element: ElementType,
}

/// All such tables of a model that this crate made.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::error::ErrorKind) where some other tool has changed what the way back needs.
pub(super) fn find(model: &Model, constants: &mut Constants<'_>) -> Result<Vec<FoundTable>> {
    let values = Values::new(&model.proto)?;
    let mut found: Vec<FoundTable> = Vec::new();
    // One table may be looked up many times.
    let mut tables: HashMap<_, ArcArray2<f32>> = HashMap::new();
    for (scope, graph) in model.graphs() {
        let nodes = Nodes::new(&graph.node, &scope, &values);
        for last in 0..graph.node.len() {
            let Some(look_up) = nodes.look_up(last) else { continue };
            let table = match tables.entry(look_up.definitions(&values, &scope)) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(new) => new.insert(look_up.dense(&scope, constants)?).clone(),
            };
            found.push(look_up.found(&scope, table));
        }
    }
    Ok(found)
}

/// The nodes of a graph.
struct Nodes<'m> {
    graph: &'m [NodeProto],
    scope: &'m Scope,
    values: &'m Values<'m>,
    /// Their places by what they make first.
    makers: HashMap<&'m str, usize>,
}

/// The nodes that look up a table, and what they read.
struct LookUp<'m> {
    nodes: Vec<usize>,
    codes: &'m str,
    atoms: &'m str,
    scales: &'m str,
    step: &'m str,
    indices: &'m str,
    output: &'m str,
    element: ElementType,
}

impl<'m> Nodes<'m> {
    fn new(graph: &'m [NodeProto], scope: &'m Scope, values: &'m Values<'m>) -> Self {
        let outputs = graph.iter().enumerate().filter_map(|(index, node)| Some((node.output.first()?.as_str(), index)));
        Nodes { graph, scope, values, makers: outputs.collect() }
    }

    /// The node of this graph that makes a value which one node only reads, if it is of an operator.
    fn maker(&self, value: &str, op: &str) -> Option<usize> {
        let node = *self.makers.get(value)?;
        let single = matches!(self.values.uses(self.scope, value), [Use::Node { .. }]);
        (single && self.is(node, op)).then_some(node)
    }

    fn is(&self, node: usize, op: &str) -> bool {
        self.graph[node].op_type() == op && is_standard(self.graph[node].domain())
    }

    fn input(&self, node: usize, input: usize) -> Option<&'m str> {
        self.graph[node].input.get(input).map(String::as_str)
    }

    /// Whether a node is a Cast to float16: to any other type it is none of ours, but what reads the rows.
    fn is_half(&self, node: usize) -> bool {
        let to = self.graph[node].attribute.iter().find(|attribute| attribute.name() == "to");
        self.is(node, "Cast") && to.is_some_and(|to| to.i() == ElementType::Float16 as i64)
    }

    /// Whether nothing but such a Cast reads what a node makes.
    fn becomes_half(&self, node: usize) -> bool {
        let output = self.graph[node].output.first();
        match output.map(|output| self.values.uses(self.scope, output)) {
            Some([Use::Node { scope, node, .. }]) => scope == self.scope && self.is_half(*node),
            _ => false,
        }
    }

    /// The nodes that end in this one, if they are those of a table.
    fn look_up(&self, last: usize) -> Option<LookUp<'m>> {
        let (product, element) = if self.is_half(last) {
            (self.maker(self.input(last, 0)?, "Mul")?, ElementType::Float16)
        } else if self.is(last, "Mul") && !self.becomes_half(last) {
            (last, ElementType::Float)
        } else {
            return None;
        };
        let reshape = self.maker(self.input(product, 0)?, "Reshape")?;
        let pieces = self.maker(self.input(reshape, 0)?, "Gather")?;
        let wide = self.maker(self.input(pieces, 1)?, "Cast")?;
        let codes = self.maker(self.input(wide, 0)?, "Gather")?;
        let scales = self.maker(self.input(product, 1)?, "Mul")?;
        let levels = self.maker(self.input(scales, 0)?, "Cast")?;
        let scale_codes = self.maker(self.input(levels, 0)?, "Gather")?;
        let indices = self.input(codes, 1)?;
        if self.input(scale_codes, 1)? != indices {
            return None;
        }
        let mut nodes = vec![product, reshape, pieces, wide, codes, scales, levels, scale_codes];
        nodes.extend((last != product).then_some(last));
        Some(LookUp {
            nodes,
            codes: self.input(codes, 0)?,
            atoms: self.input(pieces, 0)?,
            scales: self.input(scale_codes, 0)?,
            step: self.input(scales, 1)?,
            indices,
            output: self.graph[last].output.first()?,
            element,
        })
    }
}

impl LookUp<'_> {
    /// Where the values are defined that the rows are made of.
    fn definitions(&self, values: &Values<'_>, scope: &Scope) -> [Option<(Scope, String)>; 4] {
        [self.codes, self.atoms, self.scales, self.step]
            .map(|name| Some((values.resolve(scope, name)?.scope.clone(), name.to_owned())))
    }

    fn dense(&self, scope: &Scope, constants: &mut Constants<'_>) -> Result<ArcArray2<f32>> {
        let shapes = || changed("codes, codebook and scales of a table do not fit");
        let matrix = |values: ArrayD<f32>| values.into_dimensionality::<ndarray::Ix2>().map_err(|_| shapes());
        let mut read = |name: &str| constant(constants, scope, name);
        let (codes, atoms) = (matrix(read(self.codes)?)?, matrix(read(self.atoms)?)?);
        let (scales, step) = (matrix(read(self.scales)?)?, read(self.step)?);
        let step = step.iter().next().copied().ok_or_else(shapes)?;
        let (width, columns) = (atoms.ncols(), codes.ncols() * atoms.ncols());
        let fits = scales.shape() == [codes.nrows(), 1] && codes.iter().all(|&code| (code as usize) < atoms.nrows());
        if !fits {
            return Err(shapes());
        }
        let value = |(row, column): (usize, usize)| {
            let code = codes[(row, column / width)] as usize;
            atoms[(code, column % width)] * (scales[(row, 0)] * step)
        };
        Ok(Array2::from_shape_fn((codes.nrows(), columns), value).into_shared())
    }

    fn found(self, scope: &Scope, table: ArcArray2<f32>) -> FoundTable {
        let LookUp { nodes, indices, output, element, .. } = self;
        let before = nodes.iter().copied().max().expect("they are several");
        let (indices, output) = (indices.to_owned(), output.to_owned());
        FoundTable { scope: scope.clone(), nodes, before, indices, output, table, element }
    }
}
