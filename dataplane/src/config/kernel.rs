//! A port's way to the kernel: the interface that it shows, and how much may go there.

/// Frames a second toward the kernel where the file says nothing.
pub const RATE: u32 = 10_000;
/// The most frames a second that a file may allow.
pub const MOST: u64 = 1_000_000;
/// What the name of an interface may be.
pub const ACCEPTED: &str = "an interface's name: 1 to 15 letters, digits, '.', '_' and '-', the \
                            first of them a letter or digit";

/// `kernel` and `kernel_rate` of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The TAP interface's name.
    pub interface: String,
    /// Frames a second that go to the kernel at most.
    pub rate: u32,
}

/// Whether the kernel takes `name` for an interface (`IFNAMSIZ`, and what no tool has to quote).
pub fn is_interface(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=15).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_a_name_that_the_kernel_takes() {
        for good in ["weir-wan", "w", "eth0.100", "a23456789012345"] {
            assert!(is_interface(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            "a b",
            "a/b",
            "a%d",
            "a234567890123456",
            "wän",
        ] {
            assert!(!is_interface(bad), "{bad}");
        }
    }
}
