"""Ways to make recurrent weights smaller that this project is compared with, without retraining.

Each takes the weights of a model and a budget of bytes, and returns the weights as they would come back, with the bytes that
storing them takes. All that is stored is counted; graph nodes, which the tool's own figures hold, are not: that is in favour of
the baselines.

- int8, int4: rounding to nearest, one float scale a row.
- pruned: the smallest weights of all matrices are left out; a bit for each weight, a byte for each that is kept, a float scale a row.
- LSTM-SVD (Prabhavalkar et al. 2016, arXiv 1603.08042): R of a layer and W of the next share the projection, R = Z P, W' = Z' P;
  ranks explain the same share of the variance in all layers. Factors in int8 with a float scale a row, or in float.
- LSTM-ODL (online dictionary learning, Mairal et al. 2009): the same matrices as sparse codes of a learned dictionary. Atoms and
  codes in int8 with a float scale each, positions in as few bits as they take.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

RECURRENT = {"LSTM": 4, "GRU": 3}
# Of online dictionary learning: passes over the rows, rows in a batch, steps of the lasso for a batch and in the end.
PASSES, BATCH, STEPS, LAST_STEPS = 4, 256, 40, 120


@dataclass
class Weights:
    """W and R of a model, by the name of their initializer, and the rows that multiply one vector stacked."""

    model: onnx.ModelProto
    tensors: dict

    @staticmethod
    def read(path):
        model = onnx.load(path)
        nodes = [node for node in model.graph.node if node.op_type in RECURRENT]
        names = {name for node in nodes for name in node.input[1:3]}
        return Weights(model, {i.name: numpy_helper.to_array(i) for i in model.graph.initializer if i.name in names})

    def nodes(self):
        return [node for node in self.model.graph.node if node.op_type in RECURRENT]

    def stacks(self):
        """Lists of (name, direction, columns): matrices that multiply the same vector. A node whose input is as wide as the states
        of the node before it reads these, in all models that this is used for."""
        stacks, before = [], None
        for node in self.nodes():
            w, r = node.input[1:3]
            directions, _, inputs = self.tensors[w].shape
            hidden = self.tensors[r].shape[2]
            mine = [(w, direction, slice(None)) for direction in range(directions)]
            if before and sum(width for _, width in before) == inputs:
                start = 0
                for stack, width in before:
                    stack.extend((w, direction, slice(start, start + width)) for direction in range(directions))
                    start += width
            else:
                stacks.append(mine)
            states = [[(r, direction, slice(None))] for direction in range(directions)]
            stacks.extend(states)
            before = [(stack, hidden) for stack in states]
        return stacks

    def rows(self, stack):
        return np.vstack([self.tensors[name][direction][:, columns] for name, direction, columns in stack]).astype(np.float64)

    def count(self):
        return sum(tensor.size for tensor in self.tensors.values())

    def matrices(self):
        return [tensor[direction] for tensor in self.tensors.values() for direction in range(len(tensor))]

    def with_stacks(self, made):
        """The tensors with the rows of every stack replaced."""
        tensors = {name: tensor.copy() for name, tensor in self.tensors.items()}
        for stack, rows in zip(self.stacks(), made):
            start = 0
            for name, direction, columns in stack:
                part = tensors[name][direction]
                part[:, columns] = rows[start : start + len(part)]
                start += len(part)
        return tensors

    def save(self, tensors, path):
        """The model with other values of the same shapes."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for initializer in model.graph.initializer:
            if initializer.name in tensors:
                values = tensors[initializer.name].astype(np.float32)
                initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
        onnx.save(model, path)


def rounded(rows, bits):
    """Each row to the nearest of 2^bits - 1 levels."""
    most = 2 ** (bits - 1) - 1
    scale = np.abs(rows).max(-1, keepdims=True) / most
    scale[scale == 0] = 1.0
    return np.clip(np.round(rows / scale), -most, most) * scale


def rounding(bits):
    def method(weights, _budget):
        tensors = {name: rounded(tensor, bits) for name, tensor in weights.tensors.items()}
        size = sum(-(-m.shape[1] * bits // 8) * len(m) + 4 * len(m) for m in weights.matrices())
        return tensors, size

    return method


def pruned(weights, budget):
    fixed = sum(m.size // 8 + 4 * len(m) for m in weights.matrices())
    keep = int(budget - fixed)
    if keep <= 0:
        return None
    values = np.concatenate([np.abs(m).ravel() for m in weights.matrices()])
    keep = min(keep, values.size)
    least = np.partition(values, values.size - keep)[values.size - keep]
    tensors = {name: rounded(np.where(np.abs(t) >= least, t, 0), 8) for name, t in weights.tensors.items()}
    return tensors, fixed + keep


def svd(bytes_each):
    def method(weights, budget):
        factors = [np.linalg.svd(weights.rows(stack), full_matrices=False) for stack in weights.stacks()]

        def size(ranks):
            scales = 4 if bytes_each == 1 else 0
            sizes = [r * (len(u) + v.shape[1]) * bytes_each + scales * (len(u) + r) for r, (u, _, v) in zip(ranks, factors)]
            return sum(sizes)

        def ranks(share):
            explained = [np.cumsum(s**2) / (s**2).sum() for _, s, _ in factors]
            return [min(int(np.searchsorted(e, share)) + 1, len(e)) for e in explained]

        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if size(ranks(middle)) <= budget else (low, middle)
        chosen = ranks(low)
        if size(chosen) > budget:
            return None
        made = []
        for rank, (u, s, v) in zip(chosen, factors):
            z, p = u[:, :rank] * np.sqrt(s[:rank]), np.sqrt(s[:rank, None]) * v[:rank]
            if bytes_each == 1:
                z, p = rounded(z, 8), rounded(p, 8)
            made.append(z @ p)
        return weights.with_stacks(made), size(chosen)

    return method


def lasso(rows, atoms, penalty, steps):
    """Codes of least |rows - codes atoms|^2 / 2 + penalty |codes|_1, by FISTA."""
    gram, right = atoms @ atoms.T, rows @ atoms.T
    step = 1 / np.linalg.eigvalsh(gram)[-1]
    codes = ahead = np.zeros_like(right)
    momentum = 1.0
    for _ in range(steps):
        moved = ahead - step * (ahead @ gram - right)
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * penalty, 0)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - codes)
        codes, momentum = new, following
    return codes


def learn_atoms(rows, count, penalty, seed=0):
    """Online dictionary learning: atoms from what the batches so far have in common, one atom after the other."""
    generator = np.random.default_rng(seed)
    atoms = rows[generator.choice(len(rows), count, replace=len(rows) < count)].copy()
    atoms += 1e-6 * generator.standard_normal(atoms.shape)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    a, b = np.zeros((count, count)), np.zeros_like(atoms)
    for _ in range(PASSES):
        order = generator.permutation(len(rows))
        for batch in np.array_split(order, max(1, len(rows) // BATCH)):
            codes = lasso(rows[batch], atoms, penalty, STEPS)
            keep = 0.95
            a, b = keep * a + codes.T @ codes, keep * b + codes.T @ rows[batch]
            for atom in np.flatnonzero(np.diag(a) > 1e-12):
                moved = atoms[atom] + (b[atom] - a[atom] @ atoms) / a[atom, atom]
                atoms[atom] = moved / max(np.linalg.norm(moved), 1.0)
    return atoms


def sparse(rows, atoms, each, penalty):
    """Codes with `each` values a row: the largest of the lasso, fitted again on their support."""
    codes = lasso(rows, atoms, penalty, LAST_STEPS)
    kept = np.argpartition(-np.abs(codes), each - 1, axis=1)[:, :each]
    gram, right = atoms @ atoms.T, rows @ atoms.T
    out = np.zeros_like(codes)
    for row, support in enumerate(kept):
        part = gram[np.ix_(support, support)] + 1e-8 * np.eye(each)
        out[row, support] = np.linalg.solve(part, right[row, support])
    return out


def odl(weights, budget):
    share, made, size = budget / (4 * weights.count()), [], 0
    for stack in weights.stacks():
        rows = weights.rows(stack)
        count, columns = rows.shape
        unit = np.sqrt((rows**2).sum(1).mean())
        rows = rows / unit
        # As many atoms as components.
        bits = np.ceil(np.log2(columns))
        fixed = columns * (columns + 4) + 4 * count
        each = min(int((share * 4 * rows.size - fixed) / count / (1 + bits / 8)), columns)
        if each < 1:
            return None
        # A penalty at which about as many codes are left as are kept.
        penalty = 0.02 if each * 4 > columns else 0.05
        atoms = rounded(learn_atoms(rows, columns, penalty), 8)
        made.append(rounded(sparse(rows, atoms, each, penalty), 8) @ atoms * unit)
        size += fixed + count * np.ceil(each * (1 + bits / 8))
    return weights.with_stacks(made), int(size)


METHODS = {
    "int8": rounding(8),
    "int4": rounding(4),
    "pruned, int8": pruned,
    "LSTM-SVD, float": svd(4),
    "LSTM-SVD, int8": svd(1),
    "LSTM-ODL, int8": odl,
}
