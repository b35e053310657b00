//! The words by which `jobs.yaml` names a value: reading, the JSON Schema and messages take them from here.

use super::{Guarantee, MissedRun, On, OnLostLeadership, Overlap};
use crate::schedule::{Fold, Gap};

/// A value that `jobs.yaml` names by a word.
///
/// ```
/// use fencron::job::{On, Word};
/// assert_eq!(On::named("failure"), Some(On::Failure));
/// assert_eq!(On::Failure.word(), "failure");
/// ```
pub trait Word: Copy + PartialEq + 'static {
    /// Every word and the value that it names, in the order in which messages list them.
    const WORDS: &'static [(&'static str, Self)];

    /// The value that `text` names.
    fn named(text: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
    }

    /// The word that names this value.
    fn word(self) -> &'static str {
        let (word, _) = Self::WORDS.iter().find(|(_, value)| value.is_named_as(self)).expect("every value has a word");
        word
    }

    /// Whether one word names both values.
    fn is_named_as(self, other: Self) -> bool {
        self == other
    }
}

/// All words of `T`.
pub fn words<T: Word>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).collect()
}

impl Word for bool {
    const WORDS: &'static [(&'static str, bool)] = &[("true", true), ("false", false)];
}

impl Word for On {
    const WORDS: &'static [(&'static str, On)] =
        &[("success", On::Success), ("failure", On::Failure), ("end", On::End)];
}

impl Word for Overlap {
    /// How many may run at once is said apart from the word, by `max_running`.
    const WORDS: &'static [(&'static str, Overlap)] = &[
        ("skip", Overlap::Skip),
        ("queue", Overlap::Queue),
        ("replace", Overlap::Replace),
        ("allow", Overlap::Allow { max_running: 1 }),
    ];

    fn is_named_as(self, other: Overlap) -> bool {
        self == other || matches!((self, other), (Overlap::Allow { .. }, Overlap::Allow { .. }))
    }
}

impl Word for MissedRun {
    const WORDS: &'static [(&'static str, MissedRun)] =
        &[("skip", MissedRun::Skip), ("latest", MissedRun::Latest), ("all", MissedRun::All)];
}

impl Word for Guarantee {
    const WORDS: &'static [(&'static str, Guarantee)] = &[
        ("at_most_once", Guarantee::AtMostOnce),
        ("at_least_once", Guarantee::AtLeastOnce),
        ("exactly_once", Guarantee::ExactlyOnce),
    ];
}

impl Word for OnLostLeadership {
    const WORDS: &'static [(&'static str, OnLostLeadership)] =
        &[("cancel", OnLostLeadership::Cancel), ("finish", OnLostLeadership::Finish)];
}

impl Word for Gap {
    const WORDS: &'static [(&'static str, Gap)] = &[("shift", Gap::Shift), ("skip", Gap::Skip)];
}

impl Word for Fold {
    const WORDS: &'static [(&'static str, Fold)] =
        &[("first", Fold::First), ("last", Fold::Last), ("both", Fold::Both)];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_that_of_its_value_whatever_is_said_beside_it() {
        assert_eq!(Overlap::Allow { max_running: 7 }.word(), "allow");
        assert_eq!(words::<Fold>(), ["first", "last", "both"]);
        for (word, value) in Guarantee::WORDS {
            assert_eq!((value.word(), Guarantee::named(word)), (*word, Some(*value)));
        }
        assert_eq!(Gap::named("both"), None);
    }
}
