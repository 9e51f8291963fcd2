PRAGMA application_id = 1920298352;
PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE failures (
    db INTEGER NOT NULL, key BLOB NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
    partition INTEGER NOT NULL, walk INTEGER NOT NULL, PRIMARY KEY (db, key)
) WITHOUT ROWID;
INSERT INTO "failures" VALUES(0,X'6B65793A31','busy key','the target''s database 0 has this key with another value',0,0);
INSERT INTO "failures" VALUES(0,X'6B65793A32','busy key','the target''s database 0 has this key with another value',1,0);
INSERT INTO "failures" VALUES(0,X'6B65793A33','busy key','the target''s database 0 has this key with another value',0,0);
CREATE TABLE job (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    record TEXT NOT NULL, facts TEXT NOT NULL,
    state TEXT NOT NULL, fraction REAL NOT NULL, seconds REAL NOT NULL, runs INTEGER NOT NULL
);
INSERT INTO "job" VALUES(1,'{"is": "JobRecord", "name": "job", "created": 1795835483.4472091, "job": {"is": "Job", "source": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17101]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null, "sentinels_plain": false}, "target": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17102]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null, "sentinels_plain": false}, "scope": {"is": "Scope", "databases": [], "map_db": [], "match": [], "exclude": [], "types": []}, "workers": 2, "partitions": 2, "prefixes": [], "batch_keys": 20, "on_conflict": "fail", "size_check": true, "stream_from": 1048576, "hot_keys": "whole", "max_bytes_in_flight": 16777216, "clock": "refuse", "field_expiries": "keep", "read_from": "primary", "max_failures": null, "functions": false, "engine": "local", "dask_scheduler": "", "dask_send_passwords": false, "allow_eviction": false, "connect_timeout": 5.0, "timeout": 30.0, "retry_for": 300.0, "limits": {"is": "Limits", "max_source_latency": 0.005, "max_target_latency": null, "max_keys_per_sec": 700.0, "max_bytes_per_sec": null, "max_ops_per_sec": null, "max_source_cpu": null, "max_source_memory": null, "max_target_memory": 1.0, "schedule": "", "time_zone": null, "exit_when_off": false, "max_duration": null}}, "databases": [0, 3], "source_nodes": [], "target_nodes": [], "source_password": false, "target_password": false}','{"is": "Facts", "databases": [{"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 0, "keys": 2000, "scheme": "table"}, {"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 3, "keys": 2000, "scheme": "table"}], "before": {"is": "Census", "source": {"is": "Tally", "keys": 4000, "expired": 0, "evicted": 0, "expired_fields": 0}, "target": {"is": "Tally", "keys": 3, "expired": 0, "evicted": 0, "expired_fields": 0}}, "target_keys": 3, "target_runs": [[0, 0, "ee054e69045926f9157130e689e55df0cfc9cb69"]], "owners": [], "disturbed": [], "counted_again": false, "landed": false, "leased": false}','running',0.75,5.46474789100011548725e+00,1);
CREATE TABLE largest (
    db INTEGER NOT NULL, key BLOB NOT NULL, head INTEGER NOT NULL, size INTEGER NOT NULL
);
INSERT INTO "largest" VALUES(0,X'6B65793A393830',0,14);
INSERT INTO "largest" VALUES(0,X'6B65793A393731',0,14);
INSERT INTO "largest" VALUES(0,X'6B65793A393535',0,14);
INSERT INTO "largest" VALUES(0,X'6B65793A393435',0,14);
INSERT INTO "largest" VALUES(0,X'6B65793A393235',0,14);
INSERT INTO "largest" VALUES(0,X'6B65793A393035',0,14);
INSERT INTO "largest" VALUES(0,X'6B65793A373338',0,14);
INSERT INTO "largest" VALUES(0,X'6B65793A373134',0,14);
INSERT INTO "largest" VALUES(0,X'6B65793A353739',0,14);
INSERT INTO "largest" VALUES(0,X'6B65793A343239',0,14);
CREATE TABLE losses (
    db INTEGER NOT NULL, key BLOB NOT NULL, what TEXT NOT NULL,
    partition INTEGER NOT NULL, walk INTEGER NOT NULL, PRIMARY KEY (db, key)
) WITHOUT ROWID;
CREATE TABLE nodes (
    side TEXT NOT NULL, address TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT NOT NULL,
    role TEXT NOT NULL, PRIMARY KEY (side, address)
);
INSERT INTO "nodes" VALUES('source','','','ad3724cc59ed93ca34d2de1523c16abe94c3806a','master');
INSERT INTO "nodes" VALUES('target','','','ee054e69045926f9157130e689e55df0cfc9cb69','master');
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY, bounds TEXT NOT NULL, walk INTEGER NOT NULL, cursor TEXT NOT NULL,
    run_id TEXT NOT NULL, done INTEGER NOT NULL, counts TEXT NOT NULL, after TEXT NOT NULL,
    kinds TEXT NOT NULL DEFAULT '[]'
);
INSERT INTO "partitions" VALUES(0,'{"is": "Partition", "id": 0, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 0, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'0','ad3724cc59ed93ca34d2de1523c16abe94c3806a',1,'{"is": "Counts", "copied": 1009, "gone": 0, "skipped": 0, "repeated": 0, "failed": 2, "payload_bytes": 14057, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0, "rewritten": 0, "lossy": 0}','[]','[[516, 1009], [0, 1009], [256, 14057]]');
INSERT INTO "partitions" VALUES(1,'{"is": "Partition", "id": 1, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 0, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'0','ad3724cc59ed93ca34d2de1523c16abe94c3806a',1,'{"is": "Counts", "copied": 988, "gone": 0, "skipped": 0, "repeated": 0, "failed": 1, "payload_bytes": 13776, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0, "rewritten": 0, "lossy": 0}','[]','[[516, 988], [0, 988], [256, 13776]]');
INSERT INTO "partitions" VALUES(2,'{"is": "Partition", "id": 2, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 3, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'0','ad3724cc59ed93ca34d2de1523c16abe94c3806a',1,'{"is": "Counts", "copied": 1005, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 14070, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0, "rewritten": 0, "lossy": 0}','[]','[[516, 1005], [0, 1005], [256, 14070]]');
INSERT INTO "partitions" VALUES(3,'{"is": "Partition", "id": 3, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 3, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'1','ad3724cc59ed93ca34d2de1523c16abe94c3806a',0,'{"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0, "rewritten": 0, "lossy": 0}','[]','[]');
CREATE TABLE retired (
    reason TEXT NOT NULL, node TEXT NOT NULL, db INTEGER NOT NULL,
    walks INTEGER NOT NULL, counts TEXT NOT NULL, kinds TEXT NOT NULL,
    PRIMARY KEY (reason, node, db)
);
CREATE TABLE runs (number INTEGER PRIMARY KEY, run TEXT NOT NULL);
INSERT INTO "runs" VALUES(1,'{"is": "RunRecord", "number": 1, "began": 1795835483.4513397, "version": "0.1.0", "source_version": "redis 7.0.15", "target_version": "redis 7.0.15", "ended": null, "state": "running", "exit_code": null, "error": "", "seconds": 0.0, "counts": {"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0, "rewritten": 0, "lossy": 0}, "failures_by_reason": [], "losses": [], "source_keys_after": null, "target_keys_after": null, "missing": null, "walked_again": [], "worker_restarts": 0, "left_behind": [], "warnings": [], "target_accepts": "6 to 10"}');
CREATE TABLE series (
    run INTEGER NOT NULL, at REAL NOT NULL, elapsed REAL NOT NULL, seconds REAL NOT NULL,
    keys INTEGER NOT NULL, payload_bytes INTEGER NOT NULL,
    source_latency REAL, target_latency REAL, held TEXT NOT NULL
);
INSERT INTO "series" VALUES(1,1.79583548473297309878e+09,1.20329302500067569781e+00,1.20329302500067569781e+00,880,12245,1.54972076416015625e-04,1.53064727783203125e-04,'{"source latency": 0.20180585700018128, "keys a second": 1.2081771670000307}');
INSERT INTO "series" VALUES(1,1.79583548573600840572e+09,2.20637195500057714525e+00,1.00307892999990144744e+00,700,9739,1.676082611083984375e-04,1.313686370849609375e-04,'{"keys a second": 1.0067569870006992}');
INSERT INTO "series" VALUES(1,1.79583548673825860023e+09,3.20853823400011606281e+00,1.00216627899953891756e+00,700,9769,1.461505889892578125e-04,1.451969146728515625e-04,'{"keys a second": 1.0084293109994178}');
INSERT INTO "series" VALUES(1,1.79583548774143099782e+09,4.2114330790000167326e+00,1.00289484499990066979e+00,700,9800,1.447200775146484375e-04,1.065731048583984375e-04,'{"keys a second": 1.0093507880001198}');
INSERT INTO "series" VALUES(1,1.79583548874350333209e+09,5.21397084599993831943e+00,1.00253776699992158683e+00,720,10080,1.447200775146484375e-04,1.125335693359375e-04,'{"keys a second": 1.0084276659999887}');
CREATE TABLE verification (
    one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL, result TEXT NOT NULL
);
COMMIT;
