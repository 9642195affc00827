//! The windows that a convolution multiplies with its kernels.

use super::{group, spread};
use crate::onnx::NodeProto;

/// Where the windows of a Conv lie in its input `[N, C, spatial..]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Channels of one group, C / g.
    channels: usize,
    group: usize,
    /// The size of the kernel along each spatial axis.
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    padding: Padding,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Padding {
    /// At the beginning and at the end of each axis.
    Given(Vec<[usize; 2]>),
    /// As much as keeps the size, divided by the stride; the odd one at the end, or at the beginning.
    Same { upper: bool },
}

impl Window {
    /// Of a Conv with kernels of shape `[M, C/g, kernel..]`; `None` for attributes that do not fit.
    #[must_use]
    pub fn of(node: &NodeProto, shape: &[usize]) -> Option<Window> {
        let [_, channels, kernel @ ..] = shape else { return None };
        if kernel.is_empty() {
            return None;
        }
        // None for a number below 0.
        let list = |name: &str, default: Vec<usize>| -> Option<Vec<usize>> {
            let Some(found) = node.attribute.iter().find(|attribute| attribute.name() == name) else {
                return Some(default);
            };
            found.ints.iter().map(|&value| usize::try_from(value).ok()).collect()
        };
        let strides = list("strides", vec![1; kernel.len()])?;
        let dilations = list("dilations", vec![1; kernel.len()])?;
        let auto = node.attribute.iter().find(|attribute| attribute.name() == "auto_pad");
        let padding = match auto.map_or(&b"NOTSET"[..], |attribute| attribute.s()) {
            b"SAME_UPPER" => Padding::Same { upper: true },
            b"SAME_LOWER" => Padding::Same { upper: false },
            b"VALID" => Padding::Given(vec![[0; 2]; kernel.len()]),
            _ => {
                let pads = list("pads", vec![0; 2 * kernel.len()])?;
                let (begin, end) = pads.split_at_checked(kernel.len()).filter(|(_, end)| end.len() == kernel.len())?;
                Padding::Given(begin.iter().zip(end).map(|(&begin, &end)| [begin, end]).collect())
            }
        };
        let fits = strides.len() == kernel.len() && dilations.len() == kernel.len();
        let sound = fits && strides.iter().chain(&dilations).chain(kernel).all(|&size| size > 0);
        let window =
            Window { channels: *channels, group: group(node), kernel: kernel.to_vec(), strides, dilations, padding };
        sound.then_some(window)
    }

    /// As [`LinearNode::vectors`](super::LinearNode::vectors): windows of all groups, `C/g * kernel` numbers each, in the
    /// order of the kernel's elements.
    pub(super) fn vectors(&self, shape: &[usize], values: &[f32], most: usize) -> Vec<f32> {
        let [batch, channels, spatial @ ..] = shape else { return Vec::new() };
        if spatial.len() != self.kernel.len() || self.channels.checked_mul(self.group) != Some(*channels) {
            return Vec::new();
        }
        let Some((places, begin)) = self.places(spatial) else { return Vec::new() };
        let all = places.iter().chain([batch, &self.group]).try_fold(1usize, |all, &size| all.checked_mul(size));
        let Some(all) = all else { return Vec::new() };
        let plane: usize = spatial.iter().product();
        let taps: Vec<Vec<usize>> = (0..self.kernel.iter().product()).map(|tap| unravel(tap, &self.kernel)).collect();
        let mut vectors = Vec::new();
        for vector in spread(all, most) {
            let place = unravel(vector, &places);
            let image = vector / places.iter().product::<usize>();
            // The place of each element of the kernel in a channel; none where it lies in the padding.
            let inside: Vec<Option<usize>> = taps
                .iter()
                .map(|tap| {
                    let mut flat = 0;
                    for axis in 0..spatial.len() {
                        let at = place[axis] * self.strides[axis] + tap[axis] * self.dilations[axis];
                        let at = at.checked_sub(begin[axis]).filter(|&at| at < spatial[axis])?;
                        flat = flat * spatial[axis] + at;
                    }
                    Some(flat)
                })
                .collect();
            for channel in 0..self.channels {
                let of_channel = &values[(image * self.channels + channel) * plane..][..plane];
                vectors.extend(inside.iter().map(|at| at.map_or(0.0, |at| of_channel[at])));
            }
        }
        vectors
    }

    /// How many windows there are along each axis, and the padding in front of it. The numbers are those of a file, which may
    /// be as large as it likes.
    fn places(&self, spatial: &[usize]) -> Option<(Vec<usize>, Vec<usize>)> {
        let mut places = Vec::with_capacity(spatial.len());
        let mut begins = Vec::with_capacity(spatial.len());
        for (axis, &size) in spatial.iter().enumerate() {
            let extent = (self.kernel[axis] - 1).checked_mul(self.dilations[axis])?.checked_add(1)?;
            let stride = self.strides[axis];
            let (begin, padded) = match &self.padding {
                Padding::Given(pads) => (pads[axis][0], size.checked_add(pads[axis][0])?.checked_add(pads[axis][1])?),
                Padding::Same { upper } => {
                    let last = (size.div_ceil(stride).max(1) - 1).checked_mul(stride)?;
                    let wanted = last.checked_add(extent)?.max(size);
                    let pad = wanted - size;
                    (if *upper { pad / 2 } else { pad.div_ceil(2) }, wanted)
                }
            };
            places.push(padded.checked_sub(extent)? / stride + 1);
            begins.push(begin);
        }
        Some((places, begins))
    }
}

/// The index along each axis of an element in row-major order; what goes beyond the first axis is left out.
fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (at, &size) in index.iter_mut().zip(shape).rev() {
        *at = flat % size;
        flat /= size;
    }
    index
}
