//! Arrays of tables in either way of writing them: `[[service]]` or `service = [{ … }]`.

use toml_edit::{Array, ArrayOfTables, InlineTable, Item, Table, TableLike, Value};

/// An array of tables.
pub(super) enum Tables<'a> {
    /// `[[name]]`.
    Headed(&'a mut ArrayOfTables),
    /// `name = [{ … }]`.
    Inline(&'a mut Array),
}

/// An ordered list of keys with their values.
pub(super) type Entries = Vec<(&'static str, Value)>;

impl<'a> Tables<'a> {
    /// The tables under `key`, made if there are none yet: headed if the parent is. `None` when
    /// something else is there.
    pub(super) fn under(
        parent: &'a mut dyn TableLike,
        key: &str,
        parent_is_headed: bool,
    ) -> Option<Self> {
        // An empty array says nothing of how it wants to be written.
        let empty = parent
            .get(key)
            .is_none_or(|item| item.as_array().is_some_and(Array::is_empty));
        if empty {
            let new = if parent_is_headed {
                Item::ArrayOfTables(ArrayOfTables::new())
            } else {
                Item::Value(Value::Array(Array::new()))
            };
            parent.insert(key, new);
        }
        match parent.get_mut(key)? {
            Item::ArrayOfTables(tables) => Some(Self::Headed(tables)),
            Item::Value(Value::Array(array)) => Some(Self::Inline(array)),
            _ => None,
        }
    }

    /// Whether the tables have heads of their own.
    pub(super) const fn is_headed(&self) -> bool {
        matches!(self, Self::Headed(_))
    }

    /// The table at this place.
    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut dyn TableLike> {
        match self {
            Self::Headed(tables) => tables
                .get_mut(place)
                .map(|table| table as &mut dyn TableLike),
            Self::Inline(array) => array
                .get_mut(place)
                .and_then(Value::as_inline_table_mut)
                .map(|table| table as &mut dyn TableLike),
        }
    }

    /// Takes the table at this place away.
    pub(super) fn remove(&mut self, place: usize) {
        match self {
            Self::Headed(tables) => {
                tables.remove(place);
            }
            Self::Inline(array) => {
                array.remove(place);
            }
        }
    }

    /// Adds a table at the end and gives its place.
    pub(super) fn push(&mut self, entries: Entries) -> usize {
        match self {
            Self::Headed(tables) => {
                let mut table = Table::new();
                for (key, value) in entries {
                    table.insert(key, Item::Value(value));
                }
                tables.push(table);
                tables.len() - 1
            }
            Self::Inline(array) => {
                array.push(InlineTable::from_iter(entries));
                array.len() - 1
            }
        }
    }
}

/// Sets a key, keeping the comments around a value that was there.
pub(super) fn set(table: &mut dyn TableLike, key: &str, value: impl Into<Value>) {
    let mut value = value.into();
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        *value.decor_mut() = old.decor().clone();
    }
    match table.get_mut(key) {
        Some(item) => *item = Item::Value(value),
        None => {
            take_over_closing_blank(table, &mut value);
            table.insert(key, Item::Value(value));
        }
    }
}

/// The blank before an inline table's closing brace belongs to its last value: to `next`, from now.
/// A comment behind the last value stays where it is.
fn take_over_closing_blank(table: &mut dyn TableLike, next: &mut Value) {
    let last = table.iter_mut().last().map(|(_, item)| item);
    let Some(decor) = last.and_then(Item::as_value_mut).map(Value::decor_mut) else {
        return;
    };
    let suffix = decor
        .suffix()
        .and_then(|suffix| suffix.as_str())
        .unwrap_or_default()
        .to_owned();
    if !suffix.is_empty() && suffix.trim().is_empty() {
        decor.set_suffix("");
        next.decor_mut().set_prefix(" ");
        next.decor_mut().set_suffix(suffix);
    }
}
