PRAGMA application_id = 1920298352;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE failures (
    db INTEGER NOT NULL, key BLOB NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
    partition INTEGER NOT NULL, walk INTEGER NOT NULL, PRIMARY KEY (db, key)
) WITHOUT ROWID;
INSERT INTO "failures" VALUES(0,X'6B65793A31','busy key','the target''s database 0 has this key with another value',0,0);
INSERT INTO "failures" VALUES(0,X'6B65793A32','busy key','the target''s database 0 has this key with another value',0,0);
INSERT INTO "failures" VALUES(0,X'6B65793A33','busy key','the target''s database 0 has this key with another value',1,0);
CREATE TABLE job (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    record TEXT NOT NULL, facts TEXT NOT NULL,
    state TEXT NOT NULL, fraction REAL NOT NULL, seconds REAL NOT NULL, runs INTEGER NOT NULL
);
INSERT INTO "job" VALUES(1,'{"is": "JobRecord", "name": "job", "created": 1795784814.9428833, "job": {"is": "Job", "source": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17101]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null, "sentinels_plain": false}, "target": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17102]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null, "sentinels_plain": false}, "scope": {"is": "Scope", "databases": [], "map_db": [], "match": [], "exclude": [], "types": []}, "workers": 2, "partitions": 2, "prefixes": [], "batch_keys": 20, "on_conflict": "fail", "size_check": true, "big_key": 67108864, "max_bytes_in_flight": 16777216, "clock": "refuse", "read_from": "primary", "max_failures": null, "functions": false, "allow_eviction": false, "connect_timeout": 5.0, "timeout": 30.0, "retry_for": 300.0, "limits": {"is": "Limits", "max_source_latency": 0.005, "max_target_latency": null, "max_keys_per_sec": 1500.0, "max_bytes_per_sec": null, "max_ops_per_sec": null, "max_source_cpu": null, "max_source_memory": null, "max_target_memory": 1.0, "schedule": "", "time_zone": null, "exit_when_off": false, "max_duration": null}}, "databases": [0, 3], "source_nodes": [], "target_nodes": [], "source_password": false, "target_password": false}','{"is": "Facts", "databases": [{"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 0, "keys": 2000, "scheme": "table"}, {"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 3, "keys": 2000, "scheme": "table"}], "before": {"is": "Census", "source": {"is": "Tally", "keys": 4000, "expired": 0, "evicted": 0, "expired_fields": 0}, "target": {"is": "Tally", "keys": 3, "expired": 0, "evicted": 0, "expired_fields": 0}}, "target_keys": 3, "target_runs": [[0, 0, "36a854f94e023e4fde55fcbe70038b0680cc5c28"]], "owners": [], "disturbed": [], "counted_again": false, "landed": false}','running',0.390625,6.97476270700281,1);
CREATE TABLE largest (
    db INTEGER NOT NULL, key BLOB NOT NULL, head INTEGER NOT NULL, size INTEGER NOT NULL
);
INSERT INTO "largest" VALUES(0,X'6B65793A31393430',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31383030',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31373830',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31373130',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31363630',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31363430',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31363130',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31363030',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31353630',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31353330',16,38);
CREATE TABLE nodes (
    side TEXT NOT NULL, address TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT NOT NULL,
    role TEXT NOT NULL, PRIMARY KEY (side, address)
);
INSERT INTO "nodes" VALUES('source','','','2f67eaa3da020fafecd77177433e04ca1dd10027','master');
INSERT INTO "nodes" VALUES('target','','','36a854f94e023e4fde55fcbe70038b0680cc5c28','master');
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY, bounds TEXT NOT NULL, walk INTEGER NOT NULL, cursor TEXT NOT NULL,
    run_id TEXT NOT NULL, done INTEGER NOT NULL, counts TEXT NOT NULL, after TEXT NOT NULL,
    kinds TEXT NOT NULL DEFAULT '[]'
);
INSERT INTO "partitions" VALUES(0,'{"is": "Partition", "id": 0, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 0, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'166','2f67eaa3da020fafecd77177433e04ca1dd10027',0,'{"is": "Counts", "copied": 807, "gone": 0, "skipped": 0, "repeated": 0, "failed": 2, "payload_bytes": 18683, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}','[]','[[517, 720], [0, 720], [256, 15431], [518, 87], [16, 87], [272, 3252]]');
INSERT INTO "partitions" VALUES(1,'{"is": "Partition", "id": 1, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 0, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'199','2f67eaa3da020fafecd77177433e04ca1dd10027',0,'{"is": "Counts", "copied": 773, "gone": 0, "skipped": 0, "repeated": 0, "failed": 1, "payload_bytes": 17743, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}','[]','[[517, 701], [0, 701], [256, 15044], [518, 72], [16, 72], [272, 2699]]');
INSERT INTO "partitions" VALUES(2,'{"is": "Partition", "id": 2, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 3, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'0','2f67eaa3da020fafecd77177433e04ca1dd10027',0,'{"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}','[]','[]');
INSERT INTO "partitions" VALUES(3,'{"is": "Partition", "id": 3, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null, "mark": ""}, "db": 3, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'1','2f67eaa3da020fafecd77177433e04ca1dd10027',0,'{"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}','[]','[]');
CREATE TABLE runs (number INTEGER PRIMARY KEY, run TEXT NOT NULL);
INSERT INTO "runs" VALUES(1,'{"is": "RunRecord", "number": 1, "began": 1795784814.9652264, "version": "0.1.0", "source_version": "redis 7.0.15", "target_version": "redis 7.0.15", "ended": null, "state": "running", "exit_code": null, "error": "", "seconds": 0.0, "counts": {"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0, "incomparable": 0}, "failures_by_reason": [], "source_keys_after": null, "target_keys_after": null, "missing": null, "walked_again": [], "worker_restarts": 0, "left_behind": [], "warnings": []}');
CREATE TABLE series (
    run INTEGER NOT NULL, at REAL NOT NULL, elapsed REAL NOT NULL, seconds REAL NOT NULL,
    keys INTEGER NOT NULL, payload_bytes INTEGER NOT NULL,
    source_latency REAL, target_latency REAL, held TEXT NOT NULL
);
INSERT INTO "series" VALUES(1,1795784817.53281,1.07603459200618090108e+00,1.07603459200618090108e+00,10,215,6.99668940069386735558e-02,1.98179041992698340424e-01,'{"source latency": 1.0288613570010057, "keys a second": 1.0288613570010057}');
INSERT INTO "series" VALUES(1,1.79578481857060432433e+09,2.11412293700414,1.03808834499795921146e+00,90,2011,0.0401378960054717,2.43248939950717613101e-02,'{"source latency": 1.1265466670010937, "keys a second": 1.1265466670010937}');
INSERT INTO "series" VALUES(1,1.79578481964851856232e+09,3.19186082500527845695e+00,1.0777378880011383444e+00,183,4300,1.31727309999405406415e-02,1.08081119979033246636e-02,'{"source latency": 1.0776911709981505, "keys a second": 1.0776911709981505}');
INSERT INTO "series" VALUES(1,1.79578482065230226518e+09,4.19463330900180153548e+00,1.00277248399652307853e+00,726,16735,1.77333600731799378991e-03,9.05869994312524795532e-04,'{"source latency": 0.9088958790016477, "keys a second": 0.9088958790016477}');
INSERT INTO "series" VALUES(1,1.79578482165418887141e+09,5.19739292600570479407e+00,1.00275961700390325859e+00,796,18322,1.06588700145948678255e-03,9.05869994312524795532e-04,'{"source latency": 1.0166745919996174, "keys a second": 1.0166745919996174}');
INSERT INTO "series" VALUES(1,1.79578482267801332471e+09,6.22102966800594,1.02363674200023524463e+00,0,0,1.60718700499273836612e-03,1.45983200491173192858e-03,'{"source latency": 0.3323681050023879, "keys a second": 1.039154124999186}');
CREATE TABLE verification (
    one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL, result TEXT NOT NULL
);
COMMIT;
