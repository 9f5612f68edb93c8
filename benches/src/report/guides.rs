//! Figures in guides: what stands between `<!-- S: maglev -->` and `<!-- / -->` is the value of figure S's
//! case `maglev`, and between `<!-- run S -->` and `<!-- / -->` which run it is of. So a page that says
//! when to choose what says it with figures of the same run as the page of figures.

use std::path::Path;

use super::page::number;
use crate::Failure;
use crate::record::Book;

/// Guides with figures, in the documentation's folder.
const GUIDES: [&str; 2] = ["steering.md", "quic.md"];

const OPEN: &str = "<!-- ";
const END: &str = "<!-- / -->";

/// Fills the figures of all guides in that there are.
///
/// # Errors
/// When a guide cannot be read or written, or asks for what was not measured.
pub fn write(docs: &Path, book: &Book) -> Result<(), Failure> {
    for guide in GUIDES {
        let path = docs.join(guide);
        if !path.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let filled = fill(&text, book).map_err(|error| format!("{}: {error}", path.display()))?;
        if filled != text {
            std::fs::write(&path, filled)?;
        }
    }
    Ok(())
}

/// The same text with what is on record.
fn fill(text: &str, book: &Book) -> Result<String, Failure> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let (name, behind) = after.split_once(" -->").ok_or("a comment without end")?;
        filled += before;
        let Some(value) = value(name, book)? else {
            filled += OPEN;
            rest = after;
            continue;
        };
        let (_, behind) = behind
            .split_once(END)
            .ok_or_else(|| format!("{name:?} without {END}"))?;
        filled += &format!("{OPEN}{name} -->{value}{END}");
        rest = behind;
    }
    filled += rest;
    Ok(filled)
}

/// What a comment asks for; `None` for a comment that asks for nothing.
fn value(name: &str, book: &Book) -> Result<Option<String>, Failure> {
    if let Some(figure) = name.strip_prefix("run ") {
        let run = book.runs.get(figure).and_then(|run| run.machine.as_ref());
        let machine = run.ok_or_else(|| format!("figure {figure} was never measured"))?;
        return Ok(Some(format!(
            "commit `{}`, {}, {}",
            machine.commit, machine.date, machine.processor
        )));
    }
    let Some((figure, case)) = name.split_once(": ") else {
        return Ok(None);
    };
    let mut records = book.records.iter();
    let record = records.find(|record| record.figure == figure && record.case == case);
    let record = record.ok_or_else(|| format!("figure {figure} has no case {case:?}"))?;
    let unit = record.unit.trim_end_matches("/packet");
    Ok(Some(format!("{} {unit}", number(record.value))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::record::Record;

    fn book(value: f64) -> Book {
        let mut book = Book::default();
        let records = vec![Record::new('S', "maglev", "ns/packet", &[value])];
        book.measured("S", records, Machine::here());
        book
    }

    #[test]
    fn figures_are_filled_in_and_filled_in_anew() {
        let text = "| maglev | <!-- S: maglev --><!-- / --> | <!-- a remark --> of <!-- run S -->?<!-- / -->";
        let once = fill(text, &book(74.5)).unwrap();
        assert!(once.contains("| <!-- S: maglev -->74.5 ns<!-- / --> | <!-- a remark --> of "));
        assert!(once.contains(&Machine::here().processor));
        let again = fill(&once, &book(80.0)).unwrap();
        assert_eq!(again, once.replace("74.5 ns", "80 ns"));
    }

    #[test]
    fn what_was_not_measured_is_refused() {
        for text in [
            "<!-- S: magic --><!-- / -->",
            "<!-- run A --><!-- / -->",
            "<!-- S: maglev -->74.5 ns",
        ] {
            assert!(fill(text, &book(1.0)).is_err(), "{text}");
        }
    }

    #[test]
    fn the_guides_say_what_is_on_record() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let (records, runs) = super::super::files(&docs);
        let book = Book::read(&records, &runs).unwrap();
        for guide in GUIDES {
            let text = std::fs::read_to_string(docs.join(guide)).unwrap();
            assert!(text.contains(END), "{guide} has figures");
            assert!(
                fill(&text, &book).unwrap() == text,
                "{guide} is not what is on record: `cargo run -p weir-benches -- page` mends it"
            );
        }
    }
}
