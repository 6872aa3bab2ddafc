//! Names of files in JSON: one string, with a `/` between two, which no name has. What is not plain ASCII is `%` and
//! two hexadecimal digits. For `#[serde(with)]` of an optional list.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Besides all that is not ASCII: what separates, what begins an escape, and what JSON would escape.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'/').add(b'%').add(b'"').add(b'\\');

/// The list as text.
#[must_use]
pub fn encode(names: &[Vec<u8>]) -> String {
    let names: Vec<String> =
        names.iter().map(|name| percent_encode(name, ESCAPED).to_string()).collect();
    names.join("/")
}

/// The list that a text says; none when one of it is no name.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<Vec<u8>>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let decode = |part| {
        let name: Vec<u8> = percent_decode_str(part).collect();
        // One component of a path.
        let fine = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0);
        fine.then_some(name)
    };
    text.split('/').map(decode).collect()
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
        assert_eq!(encode(&["a letter.txt".into(), b"a\xffb".to_vec()]), "a letter.txt/a%FFb");
        assert_eq!(decode(&encode(&[])), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for text in ["/", "a/", "/a", "a//b", "%2f", "a%00"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn many_long_names_are_short_enough_to_be_told() {
        let names: Vec<Vec<u8>> = (0..128).map(|number| vec![b'a' + number % 26; 255]).collect();
        assert!(serde_json::to_vec(&encode(&names)).unwrap().len() < 33 << 10);
    }
}
