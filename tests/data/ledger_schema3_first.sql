PRAGMA application_id = 1920298352;
PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE failures (
    db INTEGER NOT NULL, key BLOB NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
    partition INTEGER NOT NULL, walk INTEGER NOT NULL, PRIMARY KEY (db, key)
) WITHOUT ROWID;
INSERT INTO "failures" VALUES(0,X'6B65793A31','busy key','the target''s database 0 has this key with another value',1,0);
INSERT INTO "failures" VALUES(0,X'6B65793A32','busy key','the target''s database 0 has this key with another value',1,0);
INSERT INTO "failures" VALUES(0,X'6B65793A33','busy key','the target''s database 0 has this key with another value',1,0);
CREATE TABLE job (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    record TEXT NOT NULL, facts TEXT NOT NULL,
    state TEXT NOT NULL, fraction REAL NOT NULL, seconds REAL NOT NULL, runs INTEGER NOT NULL
);
INSERT INTO "job" VALUES(1,'{"is": "JobRecord", "name": "job", "created": 1795784910.094125, "job": {"is": "Job", "source": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17101]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null, "sentinels_plain": false}, "target": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17102]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null, "sentinels_plain": false}, "scope": {"is": "Scope", "databases": [], "map_db": [], "match": [], "exclude": [], "types": []}, "workers": 2, "partitions": 2, "prefixes": [], "batch_keys": 20, "on_conflict": "fail", "size_check": true, "big_key": 67108864, "max_bytes_in_flight": 16777216, "clock": "refuse", "read_from": "primary", "max_failures": null, "functions": false, "allow_eviction": false, "connect_timeout": 5.0, "timeout": 30.0, "retry_for": 300.0, "limits": {"is": "Limits", "max_source_latency": 0.005, "max_target_latency": null, "max_keys_per_sec": 1500.0, "max_bytes_per_sec": null, "max_ops_per_sec": null, "max_source_cpu": null, "max_source_memory": null, "max_target_memory": 1.0, "schedule": "", "time_zone": null, "exit_when_off": false, "max_duration": null}}, "databases": [0, 3], "source_nodes": [], "target_nodes": [], "source_password": false, "target_password": false}','{"is": "Facts", "databases": [{"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 0, "keys": 2000, "scheme": "table"}, {"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 3, "keys": 2000, "scheme": "table"}], "before": {"is": "Census", "source": {"is": "Tally", "keys": 4000, "expired": 0, "evicted": 0, "expired_fields": 0}, "target": {"is": "Tally", "keys": 3, "expired": 0, "evicted": 0, "expired_fields": 0}}, "target_keys": 3, "target_runs": [[0, 0, "c4d5b4d50f74fbaaa19d94603cb4ffe3de6614c4"]], "owners": [], "disturbed": [], "counted_again": false, "landed": false}','running',0.298583984375,3.84706652400200255215e+00,1);
CREATE TABLE largest (
    db INTEGER NOT NULL, key BLOB NOT NULL, head INTEGER NOT NULL, size INTEGER NOT NULL
);
INSERT INTO "largest" VALUES(0,X'6B65793A31393830',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31393630',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31393030',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31383130',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31373930',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31373530',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31373330',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31373230',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31373030',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31363830',16,38);
CREATE TABLE nodes (
    side TEXT NOT NULL, address TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT NOT NULL,
    role TEXT NOT NULL, PRIMARY KEY (side, address)
);
INSERT INTO "nodes" VALUES('source','','','84bf6d36fce119f2b1d7f3296ab89b8275a19895','master');
INSERT INTO "nodes" VALUES('target','','','c4d5b4d50f74fbaaa19d94603cb4ffe3de6614c4','master');
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY, bounds TEXT NOT NULL, walk INTEGER NOT NULL, cursor TEXT NOT NULL,
    run_id TEXT NOT NULL, done INTEGER NOT NULL, counts TEXT NOT NULL, after TEXT NOT NULL,
    kinds TEXT NOT NULL DEFAULT '[]'
);
INSERT INTO "partitions" VALUES(0,'{"is": "Partition", "id": 0, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 0, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'242','84bf6d36fce119f2b1d7f3296ab89b8275a19895',0,'{"is": "Counts", "copied": 596, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 13896, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}','[]','[[517, 527], [0, 527], [256, 11311], [518, 69], [16, 69], [272, 2585]]');
INSERT INTO "partitions" VALUES(1,'{"is": "Partition", "id": 1, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 0, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'1939','84bf6d36fce119f2b1d7f3296ab89b8275a19895',0,'{"is": "Counts", "copied": 593, "gone": 0, "skipped": 0, "repeated": 0, "failed": 3, "payload_bytes": 13537, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}','[]','[[517, 541], [518, 52], [0, 541], [256, 11583], [16, 52], [272, 1954]]');
INSERT INTO "partitions" VALUES(2,'{"is": "Partition", "id": 2, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 3, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'0','84bf6d36fce119f2b1d7f3296ab89b8275a19895',0,'{"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}','[]','[]');
INSERT INTO "partitions" VALUES(3,'{"is": "Partition", "id": 3, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 3, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'1','84bf6d36fce119f2b1d7f3296ab89b8275a19895',0,'{"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}','[]','[]');
CREATE TABLE retired (
    reason TEXT NOT NULL, node TEXT NOT NULL, db INTEGER NOT NULL,
    walks INTEGER NOT NULL, counts TEXT NOT NULL, kinds TEXT NOT NULL,
    PRIMARY KEY (reason, node, db)
);
CREATE TABLE runs (number INTEGER PRIMARY KEY, run TEXT NOT NULL);
INSERT INTO "runs" VALUES(1,'{"is": "RunRecord", "number": 1, "began": 1795784910.1278558, "version": "0.1.0", "source_version": "redis 7.0.15", "target_version": "redis 7.0.15", "ended": null, "state": "running", "exit_code": null, "error": "", "seconds": 0.0, "counts": {"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}, "failures_by_reason": [], "source_keys_after": null, "target_keys_after": null, "missing": null, "walked_again": [], "worker_restarts": 0, "left_behind": [], "warnings": []}');
CREATE TABLE series (
    run INTEGER NOT NULL, at REAL NOT NULL, elapsed REAL NOT NULL, seconds REAL NOT NULL,
    keys INTEGER NOT NULL, payload_bytes INTEGER NOT NULL,
    source_latency REAL, target_latency REAL, held TEXT NOT NULL
);
INSERT INTO "series" VALUES(1,1795784912.15253,1.07330378799815662205e+00,1.07330378799815662205e+00,1266,29138,2.26341999950818717479e-03,4.5871030015405267477e-03,'{"source latency": 1.0126796129989089, "keys a second": 1.0126796129989089}');
INSERT INTO "series" VALUES(1,1.79578491315701127052e+09,2.07772210700204595923e+00,1.00441831900388933718e+00,526,12220,2.25747299991780892014e-02,8.54054000228643417358e-04,'{"source latency": 0.8082104269997217, "keys a second": 1.009605710998585}');
INSERT INTO "series" VALUES(1,1.79578491436644148825e+09,3.27852325900312280282e+00,1.20080115200107684358e+00,0,0,2.69193842992535792291e-01,2.95198899984825402498e-02,'{"source latency": 1.2214055889999145, "keys a second": 1.2214055889999145}');
CREATE TABLE verification (
    one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL, result TEXT NOT NULL
);
COMMIT;
