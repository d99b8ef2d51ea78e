//! [`named!`]: enums whose values have a number, a name and a text.
//!
//! Such a value is stored as its number (in memory that a forked child shares with its parent, for example), is a label of
//! a metric by its name, and is a part of a message by its text. All three come from one table, so a new value has all of
//! them.

/// Defines a public enum. Each row has a variant, its name in one word, and its text in a sentence.
macro_rules! named {
    (
        $(#[$of_enum:meta])*
        pub enum $Enum:ident {
            $($(#[$of_variant:meta])* $Variant:ident, $name:literal, $text:literal;)*
        }
    ) => {
        $(#[$of_enum])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $Enum {
            $($(#[$of_variant])* $Variant,)*
        }

        impl $Enum {
            /// All values, each at the place of its number.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$Variant),*];

            /// A name in one word, for a label or a log, which never changes. The names, in the order of the variants:
            #[doc = concat!($("`", $name, "` "),*)]
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name,)* }
            }
        }

        impl std::fmt::Display for $Enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$Variant => $text,)* })
            }
        }
    };
}

pub(crate) use named;
