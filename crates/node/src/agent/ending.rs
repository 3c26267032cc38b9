//! Why an agent ends, and whether it is the last one.

use serde_json::Value;

use super::api::Answer;

/// What it is that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// This pod: of an update, a drain, a node's shutdown. Another one comes.
    Pod,
    /// The DaemonSet.
    DaemonSet,
}

/// Reads it from the API's answer to the question for the DaemonSet; an error when that does not say.
pub fn after(answer: Result<Answer, String>) -> Result<Ending, String> {
    let answer = answer?;
    match answer.status {
        200 => Ok(if answer.body["metadata"]["deletionTimestamp"].is_null() {
            Ending::Pod
        } else {
            Ending::DaemonSet
        }),
        // The rights of the agents go together with the DaemonSet.
        401 | 403 | 404 => Ok(Ending::DaemonSet),
        _ => Err(answer.object().err().unwrap_or_default()),
    }
}

/// Whether no node has to be made what it was before any more, by a list of those with the label.
pub fn is_last(nodes: &Value) -> bool {
    nodes["items"].as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(status: u16, body: Value) -> Result<Answer, String> {
        Ok(Answer { status, body })
    }

    #[test]
    fn only_the_end_of_the_daemon_set_is_one_for_the_node() {
        let there = json!({ "metadata": { "name": "a" } });
        let going = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        assert_eq!(after(answer(200, there)), Ok(Ending::Pod));
        assert_eq!(after(answer(200, going)), Ok(Ending::DaemonSet));
        for status in [401, 403, 404] {
            assert_eq!(after(answer(status, json!({}))), Ok(Ending::DaemonSet));
        }
        for status in [429, 500, 503] {
            let said = after(answer(status, json!({ "message": "busy" })));
            assert!(said.unwrap_err().contains("busy"));
        }
        assert_eq!(
            after(Err("no route".to_owned())),
            Err("no route".to_owned())
        );
    }

    #[test]
    fn the_last_is_who_sees_no_labelled_node() {
        assert!(is_last(&json!({ "items": [] })));
        assert!(!is_last(
            &json!({ "items": [{ "metadata": { "name": "other" } }] })
        ));
        assert!(!is_last(&json!({})), "an answer that does not say");
    }
}
