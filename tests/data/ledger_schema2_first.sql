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
INSERT INTO "job" VALUES(1,'{"is": "JobRecord", "name": "job", "created": 1795784801.5851347, "job": {"is": "Job", "source": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17101]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null}, "target": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17102]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null}, "scope": {"is": "Scope", "databases": [], "map_db": [], "match": [], "exclude": [], "types": []}, "workers": 2, "partitions": 2, "prefixes": [], "batch_keys": 20, "on_conflict": "fail", "size_check": true, "big_key": 67108864, "max_bytes_in_flight": 16777216, "clock": "refuse", "read_from": "primary", "max_failures": null, "functions": false, "allow_eviction": false, "connect_timeout": 5.0, "timeout": 30.0, "retry_for": 300.0, "limits": {"is": "Limits", "max_source_latency": 0.005, "max_target_latency": null, "max_keys_per_sec": 1500.0, "max_bytes_per_sec": null, "max_ops_per_sec": null, "max_source_cpu": null, "max_source_memory": null, "max_target_memory": 1.0, "schedule": "", "time_zone": null, "exit_when_off": false, "max_duration": null}}, "databases": [0, 3], "source_nodes": [], "target_nodes": [], "source_password": false, "target_password": false}','{"is": "Facts", "databases": [{"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null}, "db": 0, "keys": 2000, "scheme": "table"}, {"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null}, "db": 3, "keys": 2000, "scheme": "table"}], "before": {"is": "Census", "source": {"is": "Tally", "keys": 4000, "expired": 0, "evicted": 0}, "target": {"is": "Tally", "keys": 3, "expired": 0, "evicted": 0}}, "target_keys": 3, "target_runs": [[0, 0, "a862569df749106b4fcdc5eb60e88332d432589e"]], "owners": [], "disturbed": [], "counted_again": false}','running',0.434326171875,4.46243523299926891922e+00,1);
CREATE TABLE largest (
    db INTEGER NOT NULL, key BLOB NOT NULL, head INTEGER NOT NULL, size INTEGER NOT NULL
);
INSERT INTO "largest" VALUES(0,X'6B65793A31393430',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31393130',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31383730',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31383530',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31383430',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31383330',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31373730',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31353830',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31353230',16,38);
INSERT INTO "largest" VALUES(0,X'6B65793A31343630',16,38);
CREATE TABLE nodes (
    side TEXT NOT NULL, address TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT NOT NULL,
    role TEXT NOT NULL, PRIMARY KEY (side, address)
);
INSERT INTO "nodes" VALUES('source','','','26dee8c39ae02f0047e694803c53c8106b7f3234','master');
INSERT INTO "nodes" VALUES('target','','','a862569df749106b4fcdc5eb60e88332d432589e','master');
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY, bounds TEXT NOT NULL, walk INTEGER NOT NULL, cursor TEXT NOT NULL,
    run_id TEXT NOT NULL, done INTEGER NOT NULL, counts TEXT NOT NULL, after TEXT NOT NULL,
    kinds TEXT NOT NULL DEFAULT '[]'
);
INSERT INTO "partitions" VALUES(0,'{"is": "Partition", "id": 0, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null}, "db": 0, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'622','26dee8c39ae02f0047e694803c53c8106b7f3234',0,'{"is": "Counts", "copied": 915, "gone": 0, "skipped": 0, "repeated": 0, "failed": 2, "payload_bytes": 20984, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0}','[]','[[517, 830], [518, 85], [0, 830], [256, 17801], [16, 85], [272, 3183]]');
INSERT INTO "partitions" VALUES(1,'{"is": "Partition", "id": 1, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null}, "db": 0, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'1047','26dee8c39ae02f0047e694803c53c8106b7f3234',0,'{"is": "Counts", "copied": 816, "gone": 0, "skipped": 0, "repeated": 0, "failed": 1, "payload_bytes": 18817, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0}','[]','[[517, 734], [0, 734], [256, 15742], [518, 82], [16, 82], [272, 3075]]');
INSERT INTO "partitions" VALUES(2,'{"is": "Partition", "id": 2, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null}, "db": 3, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'0','26dee8c39ae02f0047e694803c53c8106b7f3234',0,'{"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0}','[]','[]');
INSERT INTO "partitions" VALUES(3,'{"is": "Partition", "id": 3, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": [], "origin": null}, "db": 3, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'1','26dee8c39ae02f0047e694803c53c8106b7f3234',0,'{"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0}','[]','[]');
CREATE TABLE runs (number INTEGER PRIMARY KEY, run TEXT NOT NULL);
INSERT INTO "runs" VALUES(1,'{"is": "RunRecord", "number": 1, "began": 1795784801.668875, "version": "0.1.0", "source_version": "redis 7.0.15", "target_version": "redis 7.0.15", "ended": null, "state": "running", "exit_code": null, "error": "", "seconds": 0.0, "counts": {"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0}, "source_keys_after": null, "target_keys_after": null, "missing": null, "walked_again": [], "worker_restarts": 0, "left_behind": [], "warnings": []}');
CREATE TABLE series (
    run INTEGER NOT NULL, at REAL NOT NULL, elapsed REAL NOT NULL, seconds REAL NOT NULL,
    keys INTEGER NOT NULL, payload_bytes INTEGER NOT NULL,
    source_latency REAL, target_latency REAL, held TEXT NOT NULL
);
INSERT INTO "series" VALUES(1,1.79578480329991102223e+09,1.1985259540015249513e+00,1.1985259540015249513e+00,823,18898,1.20729400005075149238e-02,4.23902399779763072729e-03,'{"source latency": 1.2226673559998744, "keys a second": 1.2226673559998744}');
INSERT INTO "series" VALUES(1,1.79578480430412817004e+09,2.20268827700056135654e+00,1.00416232299903640523e+00,981,22579,5.57305100664962083101e-03,1.18778400064911693334e-03,'{"source latency": 1.0113636489986675, "keys a second": 1.0113636489986675}');
INSERT INTO "series" VALUES(1,1.79578480530702877049e+09,3.20574322599713923409e+00,1.00305494899657787755e+00,0,0,7.56353200267767533659e-03,1.38622499798657372593e-03,'{"source latency": 1.0120586070042918, "keys a second": 1.0120586070042918}');
INSERT INTO "series" VALUES(1,1.7957848063120818138e+09,4.21080408399575389921e+00,1.00506085799861466512e+00,0,0,7.54081999912159517407e-03,9.92003599822055548429e-03,'{"source latency": 1.0123902830018778, "keys a second": 1.0123902830018778}');
CREATE TABLE verification (
    one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL, result TEXT NOT NULL
);
COMMIT;
