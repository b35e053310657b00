//! The forms by which a person acts. Each is a real form, which works without script, and bears a key of its own: sent
//! twice, it is one act. What the role of the person does not allow is not there.

use maud::{Markup, html};

use super::frame::Frame;
use super::words::foreign;
use crate::config::auth::Role;

/// Where the forms of operators and those of administrators go.
const OPERATE: &str = "operate";
const ADMINISTER: &str = "administer";

/// An act that a person may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// Its word, as the record has it.
    pub act: &'static str,
    /// What it is done to.
    pub on: &'a str,
    /// What the button says.
    pub label: &'a str,
    pub role: Role,
    pub fields: &'a [Field<'a>],
}

/// What is asked of the person.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field<'a> {
    /// The parameters of a run.
    Params,
    /// For how long a pause, or a drain, lasts.
    For,
    /// One of these, by its value and its name.
    One { name: &'static str, label: &'static str, of: &'static [(&'static str, &'static str)] },
    /// A value that is sent with it.
    Hidden(&'static str, &'a str),
    /// To type this name, so that nothing is done by a slip.
    Confirm(&'a str),
}

/// For how long it may last, as `parse_duration` reads it.
const LASTS: &[(&str, &str)] =
    &[("", "until a person ends it"), ("1h", "1 hour"), ("8h", "8 hours"), ("1d", "1 day"), ("7d", "7 days")];

impl<'a> Ask<'a> {
    pub(super) fn operator(act: &'static str, on: &'a str, label: &'a str, fields: &'a [Field<'a>]) -> Ask<'a> {
        Ask { act, on, label, role: Role::Operator, fields }
    }

    pub(super) fn admin(act: &'static str, on: &'a str, label: &'a str, fields: &'a [Field<'a>]) -> Ask<'a> {
        Ask { role: Role::Admin, ..Ask::operator(act, on, label, fields) }
    }
}

/// The form, which a click opens; nothing where the person may not. While the store is away it says so, and cannot be sent.
pub(super) fn form(frame: &Frame, up: &str, ask: Ask<'_>) -> Markup {
    html! {
        @if frame.looker.may(ask.role) {
            details.act data-keep="" { summary { (ask.label) "…" } (open_form(frame, up, ask)) }
        }
    }
}

/// The same, which is open: the screen is about nothing else.
pub(super) fn open_form(frame: &Frame, up: &str, ask: Ask<'_>) -> Markup {
    if !frame.looker.may(ask.role) {
        return html! {};
    }
    html! {
        form.act method="post" action={ (up) (path(ask.role)) } {
            (hidden(frame, ask.act, ask.on))
            @for field in ask.fields { (input(*field)) }
            label { "Why " input name="reason" maxlength="500" placeholder="kept with the record"; }
            (button(frame, ask.label))
        }
    }
}

/// A row of buttons, each of which sends another value, such as how a run is settled.
pub(super) fn choices(frame: &Frame, up: &str, ask: Ask<'_>, of: (&'static str, &[(&str, &str)])) -> Markup {
    if !frame.looker.may(ask.role) {
        return html! {};
    }
    let (name, values) = of;
    html! {
        form.act method="post" action={ (up) (path(ask.role)) } data-keep="" {
            (hidden(frame, ask.act, ask.on))
            @for (value, label) in values {
                button name=(name) value=(value) disabled[!frame.store_answers()] { (label) }
                " "
            }
            (away(frame))
        }
    }
}

/// The form that acts on the jobs that are ticked in a table: the boxes name it as theirs.
pub(super) fn bulk(frame: &Frame) -> Markup {
    if !frame.looker.may(Role::Operator) {
        return html! {};
    }
    html! {
        form.act id=(BULK) method="post" action=(OPERATE) data-keep="" {
            (hidden(frame, "bulk", "the ticked jobs"))
            "With the ticked jobs: "
            @for (value, label) in [("trigger", "Run now"), ("pause", "Pause"), ("resume", "Resume")] {
                button name="do" value=(value) disabled[!frame.store_answers()] { (label) }
                " "
            }
            label { "Why " input name="reason" maxlength="500" placeholder="kept with each record"; }
            (away(frame))
        }
    }
}

const BULK: &str = "bulk";

/// The box of a job in that table.
pub(super) fn tick(frame: &Frame, job: &str) -> Markup {
    html! {
        @if frame.looker.may(Role::Operator) {
            input type="checkbox" form=(BULK) name="name" value=(job) id={ "tick-" (job) } aria-label={ "Tick " (job) };
        }
    }
}

fn path(role: Role) -> &'static str {
    if role == Role::Admin { ADMINISTER } else { OPERATE }
}

fn hidden(frame: &Frame, act: &str, on: &str) -> Markup {
    html! {
        input type="hidden" name="act" value=(act);
        input type="hidden" name="on" value=(on);
        input type="hidden" name="key" value=(frame.key);
        input type="hidden" name="next" value=(frame.looker.path);
    }
}

fn button(frame: &Frame, label: &str) -> Markup {
    html! {
        button disabled[!frame.store_answers()] { (label) }
        (away(frame))
    }
}

fn away(frame: &Frame) -> Markup {
    html! { @if !frame.store_answers() { small.muted { "The store does not answer: nothing can be done now." } } }
}

fn input(field: Field<'_>) -> Markup {
    html! {
        @match field {
            Field::Params => label {
                "Parameters "
                textarea name="params" rows="2" placeholder="name=value, one a line" {}
            },
            Field::For => label {
                "For "
                select name="for" { @for (value, label) in LASTS { option value=(value) { (label) } } }
            },
            Field::One { name, label, of } => label {
                (label) " "
                select name=(name) { @for (value, label) in of { option value=(value) { (label) } } }
            },
            Field::Hidden(name, value) => input type="hidden" name=(name) value=(value);,
            Field::Confirm(name) => label {
                "Type " b { (foreign(name)) } " to confirm "
                input name="confirm" required autocomplete="off" spellcheck="false";
            },
        }
    }
}
