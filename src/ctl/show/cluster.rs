//! Members, leadership and alarms.

use serde_json::Value;

use super::{Lines, Object, Show, Style, encoded, quote};
use crate::ctl::text::table;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmResponse, AlarmType, Member, MemberAddResponse, MemberListResponse,
    MemberPromoteResponse, MemberRemoveResponse, MemberUpdateResponse, MoveLeaderResponse,
    ResponseHeader,
};

/// A member in JSON; with `hex` its id is text, and always there.
fn member(member: &Member, style: &Style) -> Value {
    let object = if style.hex {
        Object::default().always("ID", format!("{:x}", member.id))
    } else {
        Object::default().number("ID", member.id)
    };
    let urls = |urls: &[String]| urls.iter().map(|url| url.as_str().into()).collect();
    object
        .text("name", &member.name)
        .list("peerURLs", urls(&member.peer_urls))
        .list("clientURLs", urls(&member.client_urls))
        .flag("isLearner", member.is_learner)
        .done()
}

/// An answer about members in JSON: header, maybe one member, all members.
fn answer(
    header: Option<&ResponseHeader>,
    one: Option<&Member>,
    all: &[Member],
    style: &Style,
) -> Value {
    let members: Vec<Value> = all.iter().map(|it| member(it, style)).collect();
    if style.hex {
        let header = header.copied().unwrap_or_default();
        let header = Object::default()
            .always("cluster_id", format!("{:x}", header.cluster_id))
            .always("member_id", format!("{:x}", header.member_id))
            .number("revision", header.revision)
            .number("raft_term", header.raft_term)
            .done();
        return Object::default()
            .always("header", header)
            .maybe("member", one.map(|it| member(it, style)))
            .always("members", members)
            .done();
    }
    Object::default()
        .header(header)
        .maybe("member", one.map(|it| member(it, style)))
        .list("members", members)
        .done()
}

fn cluster_id(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.cluster_id)
}

const HEADS: [&str; 6] = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];

fn row(member: &Member) -> Vec<String> {
    vec![
        format!("{:x}", member.id),
        if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
        member.name.clone(),
        member.peer_urls.join(","),
        member.client_urls.join(","),
        member.is_learner.to_string(),
    ]
}

impl Show for MemberListResponse {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        let line = |member| format!("{}\n", row(member).join(", "));
        self.members.iter().map(line).collect::<String>().into_bytes()
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style);
        for member in &self.members {
            if style.hex {
                lines.put("ID", format!("{:x}", member.id));
            } else {
                lines.put("ID", member.id);
            }
            lines.put("Name", quote(member.name.as_bytes()));
            for url in &member.peer_urls {
                lines.put("PeerURL", quote(url.as_bytes()));
            }
            for url in &member.client_urls {
                lines.put("ClientURL", quote(url.as_bytes()));
            }
            lines.put("IsLearner", member.is_learner).blank();
        }
        Some(lines.0)
    }

    fn json(&self, style: &Style) -> Value {
        answer(self.header.as_ref(), None, &self.members, style)
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        encoded(self)
    }

    fn table(&self) -> Option<String> {
        Some(table(&HEADS, &self.members.iter().map(row).collect::<Vec<_>>()))
    }
}

impl Show for MemberAddResponse {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        let member = self.member.as_ref();
        let kind = if member.is_some_and(|it| it.is_learner) { " as learner" } else { "" };
        // NB: `%16x` pads with blanks.
        format!(
            "Member {:16x} added{kind} to cluster {:16x}\n",
            member.map_or(0, |it| it.id),
            cluster_id(self.header.as_ref())
        )
        .into_bytes()
    }

    fn json(&self, style: &Style) -> Value {
        answer(self.header.as_ref(), self.member.as_ref(), &self.members, style)
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        encoded(self)
    }
}

/// A change of one member that exists, with its id.
pub(crate) struct Changed<T>(pub u64, pub T);

macro_rules! changed {
    ($($answer:ty: $words:literal;)*) => {$(
        impl Show for Changed<$answer> {
            fn simple(&self, _style: &Style) -> Vec<u8> {
                let cluster = cluster_id(self.1.header.as_ref());
                format!("Member {:16x} {} cluster {cluster:16x}\n", self.0, $words).into_bytes()
            }

            fn json(&self, style: &Style) -> Value {
                answer(self.1.header.as_ref(), None, &self.1.members, style)
            }

            fn protobuf(&self) -> Result<Vec<u8>, String> {
                encoded(&self.1)
            }
        }
    )*};
}

changed! {
    MemberRemoveResponse: "removed from";
    MemberUpdateResponse: "updated in";
    MemberPromoteResponse: "promoted in";
}

/// Leadership handed over.
pub(crate) struct LeaderMoved {
    pub from: u64,
    pub to: u64,
    pub answer: MoveLeaderResponse,
}

impl Show for LeaderMoved {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        format!("Leadership transferred from {:x} to {:x}\n", self.from, self.to).into_bytes()
    }

    fn json(&self, _style: &Style) -> Value {
        Object::default().header(self.answer.header.as_ref()).done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        encoded(&self.answer)
    }
}

/// An alarm's name.
pub(crate) fn alarm_name(alarm: &AlarmMember) -> &'static str {
    alarm.alarm().as_str_name()
}

impl Show for AlarmResponse {
    fn simple(&self, _style: &Style) -> Vec<u8> {
        let line = |alarm: &AlarmMember| {
            let mut parts = Vec::new();
            if alarm.member_id != 0 {
                parts.push(format!("memberID:{}", alarm.member_id));
            }
            if alarm.alarm() != AlarmType::None {
                parts.push(format!("alarm:{}", alarm_name(alarm)));
            }
            format!("{}\n", parts.join(" "))
        };
        self.alarms.iter().map(line).collect::<String>().into_bytes()
    }

    fn fields(&self, style: &Style) -> Option<String> {
        let mut lines = Lines::default();
        lines.header(self.header.as_ref(), style);
        for alarm in &self.alarms {
            lines.put("MemberID", alarm.member_id).put("AlarmType", alarm_name(alarm)).blank();
        }
        Some(lines.0)
    }

    fn json(&self, _style: &Style) -> Value {
        let alarm = |it: &AlarmMember| {
            Object::default().number("memberID", it.member_id).number("alarm", it.alarm).done()
        };
        Object::default()
            .header(self.header.as_ref())
            .list("alarms", self.alarms.iter().map(alarm).collect())
            .done()
    }

    fn protobuf(&self) -> Result<Vec<u8>, String> {
        encoded(self)
    }
}
