//! One knob for the time that is spent: a level sets the options that cost time, and a time budget picks a level.

use std::time::Duration;

use super::{Allocation, Codec, Effort, Options};

/// How much time is spent: 0 to 4. Each level takes all steps of the one below, and some more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

impl Level {
    /// Where most quality is had for a second: that of [`Options::default`].
    pub const DEFAULT: Level = Level(3);
    /// The highest there is.
    pub const MAX: Level = Level(4);

    /// All of them, the quickest first.
    pub fn all() -> impl Iterator<Item = Level> {
        (0..=Self::MAX.0).map(Level)
    }

    /// The level of a number, or of `max`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Level> {
        match text {
            "max" => Some(Self::MAX),
            text => Self::all().find(|level| level.to_string() == text),
        }
    }

    /// What it sets.
    #[must_use]
    pub fn settings(self) -> Settings {
        let (allocation, tune) = match self.0 {
            0 => (Allocation::Uniform, Some(None)),
            1 => (Allocation::Local, Some(None)),
            2 => (Allocation::Auto, Some(None)),
            3 => (Allocation::Auto, None),
            _ => (Allocation::Auto, Some(Some(Effort::Full))),
        };
        Settings { codec: Some(Codec::Block), allocation: Some(allocation), tune }
    }

    /// The level that has set these options, if they are as it sets them.
    #[must_use]
    pub fn of(options: &Options) -> Option<Level> {
        Self::all().find(|level| level.settings() == Settings::of(options))
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The options that cost time, as far as they are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`Options::codec`].
    pub codec: Option<Codec>,
    /// [`Options::allocation`].
    pub allocation: Option<Allocation>,
    /// [`Options::tune`].
    pub tune: Option<Option<Effort>>,
}

impl Settings {
    /// Those that are in force.
    #[must_use]
    pub(super) fn of(options: &Options) -> Settings {
        Settings { codec: Some(options.codec), allocation: Some(options.allocation), tune: options.tune }
    }

    /// These, and what they leave open as others set it.
    #[must_use]
    pub fn or(self, others: Settings) -> Settings {
        Settings {
            codec: self.codec.or(others.codec),
            allocation: self.allocation.or(others.allocation),
            tune: self.tune.or(others.tune),
        }
    }
}

impl Options {
    /// The options of a level, with what was set by hand in place of what the level sets.
    #[must_use]
    pub fn of_level(level: Level, by_hand: Settings) -> Options {
        Options::default().set(by_hand.or(level.settings()))
    }

    /// The same with these settings; what they leave open is as in [`Options::default`].
    #[must_use]
    pub(super) fn set(self, settings: Settings) -> Options {
        Options {
            codec: settings.codec.unwrap_or_default(),
            allocation: settings.allocation.unwrap_or_default(),
            tune: settings.tune,
            ..self
        }
    }
}

/// A limit on the time that a compression takes, calibration to fine-tuning. The highest [`Level`] that ends within it is taken.
///
/// Which level that is depends on the machine and on what else it does; the result of a level does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBudget {
    /// How long it may take. The lowest level is always completed.
    pub limit: Duration,
    /// What no level changes.
    pub by_hand: Settings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_level_and_what_is_set_by_hand_stays() {
        assert_eq!(Level::of(&Options::default()), Some(Level::DEFAULT));
        for level in Level::all() {
            assert_eq!(Level::parse(&level.to_string()), Some(level));
            assert_eq!(Level::of(&Options::of_level(level, Settings::default())), Some(level));
            let by_hand = Settings { tune: Some(Some(Effort::Fast)), ..Settings::default() };
            let options = Options::of_level(level, by_hand);
            assert_eq!(options.tune, Some(Some(Effort::Fast)), "{level}");
            assert_eq!(Some(options.allocation), level.settings().allocation, "{level}");
            assert_eq!(Level::of(&options), None, "fast is for samples only where it was asked for");
        }
        assert_eq!(Level::parse("max"), Some(Level::MAX));
        assert_eq!(["5", "-1", "03", "most", ""].map(Level::parse), [None; 5]);
    }
}
