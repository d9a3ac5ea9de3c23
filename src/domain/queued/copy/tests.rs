//! What is changed in a job's data, to the byte, and what is left alone.

use chrono::DateTime;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::session::tests::token;

const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
const EXP: i64 = 1_763_935_300;

fn access(iat: i64) -> String {
    token(&json!({ "sub": DID, "iat": iat, "exp": EXP }))
}

fn refresh(did: &str, iat: i64) -> String {
    token(&json!({ "sub": did, "jti": format!("j{iat}"), "iat": iat, "exp": EXP + 1 }))
}

/// Issued at 100.
fn current() -> Current {
    Current {
        did: DID.parse().unwrap(),
        access: AccessJwt::parse(&access(100)).unwrap(),
        refresh: RefreshJwt::parse(&refresh(DID, 100)).unwrap(),
    }
}

/// A job's data with a pair of that time, as JavaScript would write it.
fn data(iat: i64, expiry: &str) -> String {
    let (access, refresh) = (access(iat), refresh(DID, iat));
    format!(
        r#"{{"content":"caf\u00e9 \ud83d\ude00","empty":[],"big":9007199254740993,"account":{{"id":1e2,"originalData":{{"accessToken":"{access}","refreshToken":"{refresh}","tokenExpiry":{expiry},"scope":[]}}}}}}"#
    )
}

fn new(data: &str) -> String {
    match bring_up(data, &current()) {
        Copied::New(new) => new,
        Copied::Left(why) => panic!("{why:?}: {data}"),
    }
}

fn left(data: &str) -> Left {
    match bring_up(data, &current()) {
        Copied::New(new) => panic!("{new}"),
        Copied::Left(why) => why,
    }
}

#[test]
fn an_older_pair_is_replaced_and_nothing_else() {
    let expiry = r#""2025-11-23T22:01:40.000Z""#;
    assert_eq!(new(&data(10, r#""2020-01-01T00:00:00.000Z""#)), data(100, expiry));
    assert_eq!(new(&data(10, "null")), data(100, expiry), "right after a login");
    assert_eq!(new(&data(10, "1577836800000")), data(100, "1763935300000"));
    assert_eq!(new(&data(10, "1.5e12")), data(100, "1763935300000"));
    assert_eq!(DateTime::from_timestamp(EXP, 0).unwrap().to_rfc3339(), "2025-11-23T22:01:40+00:00");
    // Issued in the same second.
    let twin = data(100, "0").replace(&refresh(DID, 100), &refresh(DID, 99));
    assert_eq!(new(&twin), data(100, "1763935300000"));
}

#[test]
fn the_pair_may_stand_on_the_account_itself_and_without_its_expiry() {
    let on = |iat| {
        let (access, refresh) = (access(iat), refresh(DID, iat));
        format!(
            r#" {{ "account" : {{ "refreshToken" :"{refresh}" , "accessToken": "{access}"}}}} "#
        )
    };
    assert_eq!(new(&on(10)), on(100));
    // In both places, of which one is current.
    let both = |one, other| {
        let (a, b, c, d) = (access(one), refresh(DID, one), access(other), refresh(DID, other));
        format!(
            r#"{{"account":{{"accessToken":"{a}","originalData":{{"refreshToken":"{d}","accessToken":"{c}"}},"refreshToken":"{b}"}}}}"#
        )
    };
    for (one, other) in [(10, 10), (10, 100), (100, 10)] {
        assert_eq!(new(&both(one, other)), both(100, 100));
    }
    assert_eq!(left(&both(100, 100)), Left::Current);
}

#[test]
fn another_access_token_with_the_same_refresh_token_is_replaced() {
    let mixed = data(100, "null").replace(&access(100), "nonsense");
    assert_eq!(new(&mixed), data(100, r#""2025-11-23T22:01:40.000Z""#));
}

#[test]
fn what_is_not_older_is_left() {
    assert_eq!(left(&data(100, "null")), Left::Current);
    assert_eq!(left(&data(101, "null")), Left::Newer);
    let others = data(10, "null").replace(&refresh(DID, 10), &refresh("did:plc:b", 10));
    assert_eq!(left(&others), Left::OtherAccount);
}

#[test]
fn an_escaped_token_is_the_same_token() {
    let escaped = |data: String| data.replace("e30.", r"\u0065\u00330\u002e");
    assert_eq!(left(&escaped(data(100, "null"))), Left::Current);
    assert_eq!(new(&escaped(data(10, "1"))), data(100, "1763935300000"));
}

#[test]
fn other_shapes_are_left() {
    let good = data(10, "null");
    assert!(matches!(bring_up(&good, &current()), Copied::New(_)));
    let swapped = |from: &str, to: &str| {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        bad
    };
    let (access, refresh) = (format!("\"{}\"", access(10)), format!("\"{}\"", refresh(DID, 10)));
    for bad in [
        String::new(),
        "null".to_owned(),
        "7".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"account":null}"#.to_owned(),
        r#"{"account":[]}"#.to_owned(),
        r#"{"account":{"originalData":null}}"#.to_owned(),
        format!("{good} x"),
        format!("{good}{good}"),
        good.strip_suffix('}').unwrap().to_owned(),
        swapped("\"account\"", "\"Account\""),
        swapped(&access, "null"),
        swapped(&refresh, "null"),
        swapped(&refresh, "7"),
        swapped(&refresh, "\"e30.e30.c2ln\""),
        swapped(&refresh, "[\"x\"]"),
        swapped("\"accessToken\"", "\"token\""),
        swapped("\"refreshToken\"", "\"token\""),
        swapped("\"tokenExpiry\":null", "\"tokenExpiry\":{}"),
        swapped("\"tokenExpiry\":null", "\"tokenExpiry\":true"),
        // Twice.
        swapped("\"scope\":[]", &format!("\"accessToken\":{access}")),
        swapped("\"scope\":[]", "\"tokenExpiry\":null"),
        swapped("\"id\":1e2", "\"originalData\":{}"),
        swapped("\"empty\":[]", "\"account\":{}"),
        swapped("\"empty\":[]", "\"acc\\u006funt\":{}"),
        // No JSON, somewhere else.
        swapped("\"empty\":[]", "\"empty\":[,]"),
        swapped("\"empty\":[]", "\"empty\":NaN"),
    ] {
        assert_eq!(left(&bad), Left::Shape, "{bad}");
    }
}

#[test]
fn a_deep_document_is_no_trouble() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let with =
        |iat, expiry: &str| data(iat, expiry).replace("\"empty\":[]", &format!("\"x\":{deep}"));
    assert_eq!(new(&with(10, "1")), with(100, "1763935300000"));
}

#[test]
fn debug_shows_no_token() {
    let shown = format!("{:?} {:?}", bring_up(&data(10, "null"), &current()), current());
    assert!(!shown.contains("e30"), "{shown}");
}

/// JSON text of any shape, with its whitespace.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("{ }".to_owned()),
        Just("9007199254740993123".to_owned()),
        Just("-1.50E+400".to_owned()),
        Just(r#""\u00e9\ud83d\ude00 \" \\ é""#.to_owned()),
        "[a-z]{0,4}".prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|all| format!("[{}]", all.join(" ,\n"))),
            prop::collection::vec(inner, 0..4).prop_map(|all| {
                let fields: Vec<_> = all
                    .iter()
                    .enumerate()
                    .map(|(n, value)| format!("\"k{n}\"\t:{value}"))
                    .collect();
                format!("{{ {} }}", fields.join(","))
            }),
        ]
    })
}

/// Fields in some order, with others in between.
fn object(fields: Vec<(String, String)>) -> impl Strategy<Value = String> {
    let others = prop::collection::vec(any_json(), 0..4);
    let blank = prop_oneof![Just(""), Just(" "), Just("\r\n\t")];
    (others, blank).prop_flat_map(move |(others, blank)| {
        let mut all = fields.clone();
        all.extend(others.into_iter().enumerate().map(|(n, value)| (format!("other{n}"), value)));
        Just(all).prop_shuffle().prop_map(move |all| {
            let fields: Vec<_> = all
                .iter()
                .map(|(key, value)| format!("{blank}\"{key}\"{blank}:{blank}{value}{blank}"))
                .collect();
            format!("{{{blank}{}}}", fields.join(","))
        })
    })
}

/// A job's data of any order and spacing, the path to its pair, and the pair's three texts.
fn any_data() -> impl Strategy<Value = (String, bool, Vec<String>)> {
    let expiry = prop_oneof![
        Just(None),
        Just(Some("null".to_owned())),
        Just(Some("1577836800000".to_owned())),
        Just(Some("\"2020-01-01T00:00:00.000Z\"".to_owned())),
    ];
    (expiry, any::<bool>(), 0..100_i64).prop_flat_map(|(expiry, nested, iat)| {
        let mut pair = vec![
            ("accessToken".to_owned(), format!("\"{}\"", access(iat))),
            ("refreshToken".to_owned(), format!("\"{}\"", refresh(DID, iat))),
        ];
        pair.extend(expiry.map(|expiry| ("tokenExpiry".to_owned(), expiry)));
        let texts: Vec<_> = pair.iter().map(|(_, value)| value.clone()).collect();
        let own = object(pair);
        let account = own.prop_flat_map(move |own| {
            if nested {
                object(vec![("originalData".to_owned(), own)]).boxed()
            } else {
                Just(own).boxed()
            }
        });
        let data = account.prop_flat_map(|account| object(vec![("account".to_owned(), account)]));
        data.prop_map(move |data| (data, nested, texts.clone()))
    })
}

proptest! {
    #[test]
    fn only_the_three_values_change((data, nested, texts) in any_data()) {
        let new = new(&data);
        let path = if nested { "/account/originalData" } else { "/account" };
        let is_text = texts.get(2).is_none_or(|it| !it.starts_with('1'));
        let expiry = if is_text { json!("2025-11-23T22:01:40.000Z") } else { json!(1_763_935_300_000_i64) };
        let values = [json!(access(100)), json!(refresh(DID, 100)), expiry];
        // Numbers beyond a double are none to serde_json.
        let sane = |json: &str| json.replace("-1.50E+400", "1");
        let (mut before, after): (Value, Value) =
            (serde_json::from_str(&sane(&data)).unwrap(), serde_json::from_str(&sane(&new)).unwrap());
        let pair = before.pointer_mut(path).unwrap();
        for (key, value) in ["accessToken", "refreshToken", "tokenExpiry"].iter().zip(&values) {
            if let Some(field) = pair.get_mut(key) {
                *field = value.clone();
            }
        }
        prop_assert_eq!(&before, &after);

        // Put back, the bytes are as they were.
        let mut back = new.clone();
        for (text, value) in texts.iter().zip(&values).take(2) {
            back = back.replacen(&value.to_string(), text, 1);
        }
        if let Some(expiry) = texts.get(2) {
            let at = back.find("\"tokenExpiry\"").unwrap();
            let (head, tail) = back.split_at(at);
            back = head.to_owned() + &tail.replacen(&values[2].to_string(), expiry, 1);
        }
        prop_assert_eq!(back, data);
        prop_assert_eq!(left(&new), Left::Current);
    }

    #[test]
    fn nothing_makes_it_panic(text in ".{0,200}", cut in 0..700_usize) {
        let _any = bring_up(&text, &current());
        let whole = data(10, "null");
        let cut: String = whole.chars().take(cut).collect();
        prop_assert!(cut == whole || matches!(bring_up(&cut, &current()), Copied::Left(Left::Shape)));
    }
}
