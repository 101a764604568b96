//! Laying what a client gave over what holds without it.
//!
//! It knows only the rule; which types have members is said beside them.

/// A value that can be laid over another of its type: what is given wins, member by member.
pub(super) trait Patch {
    /// `self` where it says something, else `base`.
    fn over(self, base: Self) -> Self;
}

impl<T: Patch> Patch for Option<T> {
    fn over(self, base: Self) -> Self {
        match (self, base) {
            (Some(given), Some(base)) => Some(given.over(base)),
            (given, base) => given.or(base),
        }
    }
}

/// Types without members of their own: given, they win as a whole.
macro_rules! whole {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::model::schema::patch::Patch for $type {
            fn over(self, _base: Self) -> Self {
                self
            }
        }
    )*};
}

/// A struct whose members are laid over one another. All have to be named, or it does not compile.
macro_rules! member_wise {
    ($type:ident { $($member:ident),* $(,)? }) => {
        impl $crate::model::schema::patch::Patch for $type {
            fn over(self, base: Self) -> Self {
                Self { $($member: self.$member.over(base.$member)),* }
            }
        }
    };
}

pub(super) use {member_wise, whole};

whole!(String, bool, f64, u32, usize);
