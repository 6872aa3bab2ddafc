//! Names of files in JSON: one string, with a `/` between two, which no name has. A byte that is no part of UTF-8
//! text, a control character and `%` itself are `%` and two hexadecimal digits. For `#[serde(with)]` of an
//! optional list.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The list as text.
#[must_use]
pub fn encode(names: &[Vec<u8>]) -> String {
    names.iter().map(|name| encode_one(name)).collect::<Vec<_>>().join("/")
}

fn encode_one(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str(&format!("%{byte:02x}"));
        }
    };
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '%' | '/' => escape(&mut text, &[character as u8]),
                // The quote and the backslash would take two bytes in JSON as well.
                '"' | '\\' => escape(&mut text, &[character as u8]),
                character if character.is_control() => {
                    escape(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                character => text.push(character),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The list that a text says; none when it is no such text.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<Vec<u8>>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split('/').map(decode_one).collect()
}

fn decode_one(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut name = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| !digits.starts_with('+'))?;
        name.push(u8::from_str_radix(digits, 16).ok()?);
        name.extend(part[2..].as_bytes());
    }
    // An empty name is none, and one file is one component.
    (!name.is_empty() && !name.contains(&b'/') && !name.contains(&0)).then_some(name)
}

/// For serde.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(
    names: &Option<Vec<Vec<u8>>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    names.as_deref().map(encode).serialize(serializer)
}

/// For serde.
///
/// # Errors
/// The deserializer's, or it is no list of names.
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Vec<u8>>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let wrong = || Error::custom("not a list of names with a / between two");
    text.map(|text| decode(&text).ok_or_else(wrong)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_and_most_stand_there_as_they_are() {
        let names: Vec<Vec<u8>> = (1..=255_u8)
            .filter(|byte| *byte != b'/')
            .map(|byte| vec![b'a', byte, b'z'])
            .chain(["letter.odt", "Grüße 100%.txt", "%41", "+1"].map(|name| name.into()))
            .collect();
        assert_eq!(decode(&encode(&names)).as_ref(), Some(&names));
        assert_eq!(encode(&["Grüße.txt".into(), b"a\xffb".to_vec()]), "Grüße.txt/a%ffb");
        assert_eq!(decode(&encode(&[])), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for text in ["/", "a/", "/a", "a//b", "%", "%4", "%zz", "%2f", "a%00", "%+1", "%é"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn many_long_names_are_short_enough_to_be_told() {
        let names: Vec<Vec<u8>> = (0..128).map(|number| vec![b'a' + number % 26; 255]).collect();
        assert!(serde_json::to_vec(&encode(&names)).unwrap().len() < 33 << 10);
    }
}
