//! Ids and parameters of a request's address: valid, or a clear refusal.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};

use super::error::ApiError;

/// An id in the path, as it was given.
pub(super) type PathId = Result<Path<String>, PathRejection>;

/// The parameters after `?`.
pub(super) type Params = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// The id in the path.
pub(super) fn id<T: FromStr<Err: std::fmt::Display>>(given: PathId) -> Result<T, ApiError> {
    let Path(text) =
        given.map_err(|_not_utf8| ApiError::bad_request("The id in the path is not UTF-8"))?;
    text.parse().map_err(|error| ApiError::bad_request(format!("The id in the path is {error}")))
}

/// The parameters, each given at most once and each among `known`.
pub(super) fn named(given: Params, known: &[&str]) -> Result<BTreeMap<String, String>, ApiError> {
    let Query(pairs) =
        given.map_err(|_form| ApiError::bad_request("The part after ? cannot be read"))?;
    let mut params = BTreeMap::new();
    for (name, value) in pairs {
        if !known.contains(&name.as_str()) {
            let known = known.join(", ");
            let message =
                format!("There is no parameter of the name {:?}; there are: {known}", cut(&name));
            return Err(ApiError::bad_request(message));
        }
        if params.insert(name.clone(), value).is_some() {
            return Err(ApiError::bad_request(format!("The parameter {name} is given twice")));
        }
    }
    Ok(params)
}

/// How many items to answer with: `default` unless `limit` says otherwise.
pub(super) fn limit(
    params: &BTreeMap<String, String>,
    default: u32,
    most: u32,
) -> Result<u32, ApiError> {
    let Some(text) = params.get("limit") else { return Ok(default) };
    let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
    limit.ok_or_else(|| {
        ApiError::bad_request(format!("limit must be a whole number from 1 to {most}"))
    })
}

/// Somebody else's text, short enough to be quoted.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query<Vec<(String, String)>> {
        let uri = format!("http://localhost/?{text}").parse().unwrap();
        Query::try_from_uri(&uri).unwrap()
    }

    #[test]
    fn parameters_are_known_and_single() {
        let good = named(Ok(query("limit=7&before=x%3Ay")), &["limit", "before"]).unwrap();
        assert_eq!(good.get("before").map(String::as_str), Some("x:y"));
        assert_eq!(limit(&good, 20, 100), Ok(7));
        assert_eq!(limit(&BTreeMap::new(), 20, 100), Ok(20));
        for bad in ["limit=1&limit=2", "page=2", "Limit=1", "=x"] {
            assert!(named(Ok(query(bad)), &["limit", "before"]).is_err(), "{bad}");
        }
        for bad in ["limit=0", "limit=101", "limit=-1", "limit=", "limit=ten", "limit=4294967297"] {
            let params = named(Ok(query(bad)), &["limit"]).unwrap();
            assert!(limit(&params, 20, 100).is_err(), "{bad}");
        }
    }
}
