//! What the documents promise to list in full, they list in full.

use std::path::Path;

use weir_e2e::{Failure, Result, ensure, host};
use weir_shm::counters::DropReason;

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))
}

#[test]
fn every_drop_reason_is_explained_to_operators() -> Result {
    let text = read(&host::workspace().join("docs/operations.md"))?;
    for reason in DropReason::ALL {
        let row = format!("| `{}` | {} |", reason.name(), reason.description());
        ensure!(
            text.contains(&row),
            "docs/operations.md lacks the row:\n{row}"
        );
    }
    Ok(())
}

#[test]
fn every_link_between_documents_leads_somewhere() -> Result {
    let root = host::workspace();
    let mut documents = vec![
        root.join("README.md"),
        root.join("CONTRIBUTING.md"),
        root.join("CHANGELOG.md"),
    ];
    for folder in ["docs", "docs/decisions"] {
        for entry in std::fs::read_dir(root.join(folder))? {
            documents.push(entry?.path());
        }
    }
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut links = 0;
    for document in documents {
        let text = read(&document)?;
        let folder = document.parent().unwrap_or(&root);
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            ensure!(
                folder.join(target).exists(),
                "{}: {target} does not exist",
                document.display()
            );
        }
    }
    ensure!(
        links > 5,
        "only {links} links were found; the documents are not written as this test reads them"
    );
    Ok(())
}
