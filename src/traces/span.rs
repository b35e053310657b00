//! What the span of an attempt says. Pure.

use std::sync::Arc;

use super::otlp::{ERROR, INTERNAL, KeyValue, OK, Span, Status};
use crate::execute::Work;
use crate::fence::Stamp;
use crate::job::{AttemptResult, Job, Trigger, Verdict};
use crate::time::Wall;

/// An attempt that is under way.
pub(super) struct Begun {
    job: Arc<Job>,
    stamp: Stamp,
}

impl Begun {
    pub fn of(work: &Work) -> Begun {
        Begun { job: Arc::clone(&work.job), stamp: work.stamp.clone() }
    }

    /// The span of the attempt, which has ended so.
    pub fn span(self, ended: &AttemptResult) -> Span {
        let Begun { job, stamp } = self;
        let end = ended.outcome.end(None);
        let mut attributes = vec![
            KeyValue::text("fencron.namespace", &stamp.namespace),
            KeyValue::text("fencron.job_name", &stamp.job),
            KeyValue::text("fencron.run_id", &stamp.run_id),
            KeyValue::text("fencron.scheduled_at", stamp.scheduled_at.to_string()),
            KeyValue::text("fencron.node", &stamp.node),
            KeyValue::number("fencron.fence", stamp.fence.get()),
            KeyValue::number("fencron.attempt", stamp.attempt),
            KeyValue::text("fencron.verdict", end.verdict.as_str()),
        ];
        if let Trigger::Schedule { schedule, .. } = &job.trigger {
            attributes.push(KeyValue::text("faas.cron", schedule.text()));
        }
        let is_timed = matches!(job.trigger, Trigger::Schedule { .. }) && !stamp.run_id.contains('~');
        attributes.push(KeyValue::text("faas.trigger", if is_timed { "timer" } else { "other" }));
        attributes.extend(end.exit_code.map(|code| KeyValue::number("process.exit.code", code)));
        let status = match end.verdict {
            Verdict::Succeeded => Status { message: String::new(), code: OK },
            _ => Status { message: end.reason, code: ERROR },
        };
        Span {
            trace_id: stamp.trace_id().to_vec(),
            span_id: stamp.span_id().to_vec(),
            name: "fencron.run".to_owned(),
            kind: INTERNAL,
            start_time_unix_nano: nanos(ended.started_at.unwrap_or(ended.finished_at)),
            end_time_unix_nano: nanos(ended.finished_at),
            attributes,
            status: Some(status),
        }
    }
}

fn nanos(at: Wall) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(0).saturating_mul(1_000_000)
}
