//! gRPC's services, of which a daemon says how it is and what it serves.

use super::{Row, many, one, opens};

pub(super) const HEALTH: &[Row] = &[
    one("Check", "{}", "", ""),
    one("Check", r#"{"service":"$LONG"}"#, "not_found", "is not served here"),
    one("Check", r#"{"service":{}}"#, "invalid_argument", ""),
    many("Watch", &[], "unimplemented", "requires a message"),
    many("Watch", &["{"], "invalid_argument", ""),
    opens("Watch", r#"{"service":"$LONG"}"#),
];

pub(super) const REFLECTION: &[Row] = &[
    many("ServerReflectionInfo", &[], "", ""),
    many("ServerReflectionInfo", &["{}"], "invalid_argument", "ask for something"),
    many("ServerReflectionInfo", &[r#"{"fileByFilename":"../../etc/passwd"}"#], "", ""),
    many("ServerReflectionInfo", &[r#"{"fileContainingSymbol":"$LONG"}"#], "", ""),
    many("ServerReflectionInfo", &[r#"{"fileContainingExtension":{"extensionNumber":-2147483648}}"#], "", ""),
    many("ServerReflectionInfo", &[r#"{"listServices":""}"#, "]"], "invalid_argument", ""),
];
