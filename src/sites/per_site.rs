//! A value for each site of a model, indexed by [`SiteId`]: lists that are joined by site cannot get out of step unseen.

use std::ops::{Index, IndexMut};

use super::SiteId;

/// One value for each site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PerSite<T>(Vec<T>);

impl<T> PerSite<T> {
    /// Sites and their values, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (SiteId, &T)> + ExactSizeIterator + Clone {
        self.0.iter().enumerate().map(|(index, value)| (SiteId(index), value))
    }

    /// As [`iter`](Self::iter), to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SiteId, &mut T)> {
        self.0.iter_mut().enumerate().map(|(index, value)| (SiteId(index), value))
    }

    /// The values in order.
    pub fn values(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// Sites with the values that both have for them.
    ///
    /// # Panics
    /// If they are of different models, that is of different lengths.
    pub fn zip<'a, U>(&'a self, other: &'a PerSite<U>) -> impl Iterator<Item = (SiteId, &'a T, &'a U)> {
        assert_eq!(self.len(), other.len(), "values of different sites are joined");
        self.iter().zip(&other.0).map(|((id, a), b)| (id, a, b))
    }

    /// Another value for each.
    pub fn map<U>(&self, mut value: impl FnMut(SiteId, &T) -> U) -> PerSite<U> {
        self.iter().map(|(id, v)| value(id, v)).collect()
    }

    /// Sites.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no site.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> FromIterator<T> for PerSite<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        PerSite(values.into_iter().collect())
    }
}

impl<T> From<Vec<T>> for PerSite<T> {
    fn from(values: Vec<T>) -> Self {
        PerSite(values)
    }
}

impl<T> Index<SiteId> for PerSite<T> {
    type Output = T;

    fn index(&self, id: SiteId) -> &T {
        &self.0[id.0]
    }
}

impl<T> IndexMut<SiteId> for PerSite<T> {
    fn index_mut(&mut self, id: SiteId) -> &mut T {
        &mut self.0[id.0]
    }
}
