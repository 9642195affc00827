//! Tests of the nodes that are found and the vectors that they multiply.
