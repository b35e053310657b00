//! The shapes of what is written as a text or a number, for the description of the API.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::fence::Fence;
use crate::job::{JobName, RunId};
use crate::time::Wall;

/// Gives a type a schema that is written in place.
macro_rules! plain {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

plain!(Wall, "Instant", {
    "type": "string", "format": "date-time",
    "description": "An instant in UTC, to the millisecond, as RFC 3339 writes it.",
});
plain!(Fence, "Fence", {
    "type": "integer", "minimum": 1, "maximum": 9_007_199_254_740_991_u64,
    "description": "The number of one hold of a lock: greater for every later one.",
});
plain!(JobName, "JobName", {
    "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
    "description": "The name of a job.",
});
plain!(RunId, "RunId", {
    "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\
                @[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\\.[0-9]{3})?Z\
                (~[A-Za-z0-9-]{1,64})?$",
    "description": "A run: the job, the instant of its occurrence, and the call where it was asked for.",
});
