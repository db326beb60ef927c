//! Counters of a device: atomics while it lives, plain numbers for readers.

macro_rules! counters {
    ($(#[$outer:meta])* $public:ident, $live:ident { $($(#[$meta:meta])* $name:ident,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct $public { $($(#[$meta])* pub $name: u64,)* }

        /// The counters while the device lives. Relaxed: each stands for itself.
        #[derive(Debug, Default)]
        pub(crate) struct $live { $(pub(crate) $name: std::sync::atomic::AtomicU64,)* }

        impl $live {
            /// Counts.
            pub(crate) fn add(counter: &std::sync::atomic::AtomicU64, by: u64) {
                counter.fetch_add(by, std::sync::atomic::Ordering::Relaxed);
            }

            /// The values now.
            pub(crate) fn snapshot(&self) -> $public {
                $public { $($name: self.$name.load(std::sync::atomic::Ordering::Relaxed),)* }
            }
        }
    };
}
pub(crate) use counters;
