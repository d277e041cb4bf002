//! As much of JSON Schema (2020-12) as the schemas in `docs/` use. A keyword that is not known here is a panic, so that no schema says
//! something that nobody checks.

use std::{fs, path::Path};

use regex::Regex;
use serde_json::Value;

/// A schema of `docs/`.
pub(crate) struct Schema(Value);

impl Schema {
    pub(crate) fn load(docs: &Path, name: &str) -> Self {
        let path = docs.join(format!("plugin-{name}.schema.json"));
        Self(serde_json::from_slice(&fs::read(path).expect("there")).expect("JSON"))
    }

    /// Says what is wrong with a document, and where.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        self.node(&self.0, value, "$")
    }

    fn node(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        for (keyword, rule) in schema.as_object().expect("a schema is an object") {
            let fine = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "default" => true,
                "$ref" => {
                    let pointer = rule.as_str().and_then(|text| text.strip_prefix('#')).expect("a local one");
                    self.node(self.0.pointer(pointer).expect("defined"), value, at)?;
                    true
                }
                "oneOf" => {
                    let schemas = rule.as_array().expect("a list");
                    schemas.iter().filter(|schema| self.node(schema, value, at).is_ok()).count() == 1
                }
                "not" => self.node(rule, value, at).is_err(),
                "type" => is_of(rule.as_str().expect("one type"), value),
                "const" => value == rule,
                "enum" => rule.as_array().expect("a list").contains(value),
                "pattern" => text(value).is_none_or(|text| {
                    Regex::new(rule.as_str().expect("text")).expect("a pattern").is_match(text)
                }),
                "minLength" => text(value).is_none_or(|text| text.chars().count() as u64 >= number(rule)),
                "maxLength" => text(value).is_none_or(|text| text.chars().count() as u64 <= number(rule)),
                "minimum" => value.as_f64().is_none_or(|value| value >= rule.as_f64().expect("a number")),
                "maximum" => value.as_f64().is_none_or(|value| value <= rule.as_f64().expect("a number")),
                "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= number(rule)),
                "uniqueItems" => value.as_array().is_none_or(|items| {
                    items.iter().enumerate().all(|(at, item)| !items[..at].contains(item))
                }),
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.node(rule, item, &format!("{at}[{index}]"))?;
                    }
                    true
                }
                "required" => value.as_object().is_none_or(|members| {
                    rule.as_array()
                        .expect("a list")
                        .iter()
                        .all(|name| members.contains_key(name.as_str().expect("text")))
                }),
                "properties" => {
                    for (name, member) in value.as_object().into_iter().flatten() {
                        if let Some(rule) = rule.get(name) {
                            self.node(rule, member, &format!("{at}.{name}"))?;
                        }
                    }
                    true
                }
                "additionalProperties" => {
                    let known = schema.get("properties");
                    let mut more = value.as_object().into_iter().flatten();
                    more.try_for_each(|(name, member)| {
                        if known.is_some_and(|known| known.get(name).is_some()) {
                            return Ok(());
                        }
                        match rule {
                            Value::Bool(false) => Err(format!("{at} has the foreign member {name}")),
                            rule => self.node(rule, member, &format!("{at}.{name}")),
                        }
                    })?;
                    true
                }
                other => panic!("the keyword {other} is not known to this check"),
            };
            if !fine {
                return Err(format!("{at}: {value} breaks {keyword} {rule}"));
            }
        }
        Ok(())
    }
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

fn number(rule: &Value) -> u64 {
    rule.as_u64().expect("a number")
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("the type {other} is not known to this check"),
    }
}
