//! Checks a JSON value against the schema in docs/pktgen.md, as far as that schema goes: a keyword
//! that is not known here fails the test, so that nothing in the documentation goes unchecked.

use serde_json::Value;

/// The schema: the block of docs/pktgen.md that has an `$id`.
pub fn documented() -> Value {
    let text = include_str!("../../../docs/pktgen.md");
    let blocks = text.split("```json\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("\n```").next());
    let block = blocks.find(|block| block.contains("\"$id\"")).unwrap();
    serde_json::from_str(block).unwrap()
}

/// Every way in which `value` differs from `schema`.
pub fn differences(value: &Value, schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(value, schema, schema, "$", &mut found);
    found
}

fn check(value: &Value, schema: &Value, root: &Value, at: &str, found: &mut Vec<String>) {
    let rules = schema.as_object().unwrap();
    for (keyword, rule) in rules {
        match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                check(value, root.pointer(pointer).unwrap(), root, at, found);
            }
            "type" => {
                let types = rule
                    .as_array()
                    .map_or_else(|| vec![rule], |many| many.iter().collect());
                if !types.iter().any(|name| is(value, name.as_str().unwrap())) {
                    found.push(format!("{at} is {value}, and should be {rule}"));
                }
            }
            "const" | "enum" => {
                let allowed = rule
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![rule.clone()]);
                if !allowed.contains(value) {
                    found.push(format!("{at} is {value}, and should be one of {rule}"));
                }
            }
            "minimum" => {
                if value
                    .as_f64()
                    .is_some_and(|number| number < rule.as_f64().unwrap())
                {
                    found.push(format!("{at} is {value}, below {rule}"));
                }
            }
            "items" => {
                for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(item, rule, root, &format!("{at}[{place}]"), found);
                }
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    if value.get(name.as_str().unwrap()).is_none() {
                        found.push(format!("{at} has no {name}"));
                    }
                }
            }
            "properties" | "additionalProperties" => {}
            unknown => found.push(format!("the schema's {unknown} is not checked")),
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        let described = rules.get("properties").and_then(|all| all.get(name));
        match (described, rules.get("additionalProperties")) {
            (Some(rule), _) => check(member, rule, root, &at, found),
            (None, Some(Value::Bool(false))) => found.push(format!("{at} is not documented")),
            (None, Some(rule @ Value::Object(_))) => check(member, rule, root, &at, found),
            (None, _) => {}
        }
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("type {other}"),
    }
}
