//! What the demo says.

use std::io::Write;

use super::folder::Folder;

pub(super) struct Lesson {
    pub(super) nodes: Vec<NodeFacts>,
}

pub(super) struct NodeFacts {
    pub(super) name: String,
    pub(super) http: u16,
    pub(super) admin: u16,
    pub(super) pid: Option<u32>,
    pub(super) leads: bool,
}

/// A line for the user. The demo goes on when nobody reads it.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub(super) fn text(lesson: &Lesson, folder: &Folder) -> String {
    let Some(first) = lesson.nodes.first() else { return String::new() };
    let (http, admin) = (first.http, first.admin);
    let flag = if admin == 9900 { String::new() } else { format!(" --api http://127.0.0.1:{admin}") };
    let nodes: Vec<String> = lesson.nodes.iter().map(describe).collect();
    let leader = lesson.nodes.iter().find(|node| node.leads).unwrap_or(first);
    let kill = leader.pid.map_or_else(|| "PID".into(), |pid| pid.to_string());
    let other = lesson.nodes.iter().find(|node| node.name != leader.name).unwrap_or(first).admin;
    format!(
        "
Three nodes balance three endpoints. Logs: {folder}
{nodes}

1. Open http://127.0.0.1:{http}/ and http://127.0.0.1:{admin}/ (the dashboard) side by side.
   The page says which endpoint serves you. The ports of the other nodes lead to the same endpoint:
   any node opens the cookie, and all of them compute the same choice.

2. Empty the endpoint that serves you (app-1 here). Nothing breaks: what runs goes on, the next
   request moves the session to another endpoint, once:
     tidelock endpoint drain demo app-1 --wait{flag}
   The same without the command line:
     curl -X POST http://127.0.0.1:{admin}/v1/pools/demo/endpoints/app-1/drain \\
          -H 'content-type: application/json' -d '{{\"mode\":\"streams\",\"deadline_seconds\":60}}'
     curl 'http://127.0.0.1:{admin}/v1/drains/ID?wait=safe&timeout_seconds=60'
   And back:
     tidelock endpoint undrain demo app-1{flag}

3. Kill the leader and see that traffic and changes go on:
     kill -9 {kill}          # node {leader_name}; it is started again after 5 s
     tidelock status --api http://127.0.0.1:{other}

Ctrl-C stops everything.",
        folder = folder.path().display(),
        nodes = nodes.join("\n"),
        leader_name = leader.name,
    )
}

fn describe(node: &NodeFacts) -> String {
    let pid = node.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
    let leads = if node.leads { ", leads" } else { "" };
    format!("  node {}: http://127.0.0.1:{}, admin http://127.0.0.1:{}{pid}{leads}", node.name, node.http, node.admin)
}
