PRAGMA application_id = 1920298352;
PRAGMA user_version = 1;
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
INSERT INTO "job" VALUES(1,'{"is": "JobRecord", "name": "job", "created": 1795784873.5473847, "job": {"is": "Job", "source": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17101]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null}, "target": {"is": "Endpoint", "transport": "tcp", "addresses": [["127.0.0.1", 17102]], "path": "", "service": "", "db": null, "username": null, "password": null, "tls": null, "sentinel_username": null, "sentinel_password": null, "cluster": null, "address_map": [], "password_file": null, "sentinel_password_file": null}, "scope": {"is": "Scope", "databases": [], "map_db": [], "match": [], "exclude": [], "types": []}, "workers": 2, "partitions": 2, "prefixes": [], "batch_keys": 5, "on_conflict": "fail", "size_check": true, "big_key": 67108864, "max_bytes_in_flight": 16777216, "clock": "refuse", "max_failures": null, "functions": false, "allow_eviction": false, "connect_timeout": 5.0, "timeout": 30.0, "retry_for": 300.0}, "databases": [0, 3], "source_nodes": [], "target_nodes": [], "source_password": false, "target_password": false}','{"is": "Facts", "databases": [{"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": []}, "db": 0, "keys": 2000, "scheme": "table"}, {"is": "NodeKeys", "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": []}, "db": 3, "keys": 2000, "scheme": "table"}], "before": {"is": "Census", "source": {"is": "Tally", "keys": 4000, "expired": 0, "evicted": 0}, "target": {"is": "Tally", "keys": 3, "expired": 0, "evicted": 0}}, "target_keys": 3, "target_runs": [[0, 0, "fb5e97f226661ddb20bf2d4c400049d6790b2e0c"]], "owners": [], "disturbed": [], "counted_again": false}','running',0.5,3.04076221199648,1);
CREATE TABLE nodes (
    side TEXT NOT NULL, address TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT NOT NULL,
    role TEXT NOT NULL, PRIMARY KEY (side, address)
);
INSERT INTO "nodes" VALUES('source','','','6cd023f8a529b9bffd3dfe8fbdcc1ca8314cfed2','master');
INSERT INTO "nodes" VALUES('target','','','fb5e97f226661ddb20bf2d4c400049d6790b2e0c','master');
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY, bounds TEXT NOT NULL, walk INTEGER NOT NULL, cursor TEXT NOT NULL,
    run_id TEXT NOT NULL, done INTEGER NOT NULL, counts TEXT NOT NULL, after TEXT NOT NULL
);
INSERT INTO "partitions" VALUES(0,'{"is": "Partition", "id": 0, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": []}, "db": 0, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'515','6cd023f8a529b9bffd3dfe8fbdcc1ca8314cfed2',1,'{"is": "Counts", "copied": 1010, "gone": 0, "skipped": 0, "repeated": 0, "failed": 2, "payload_bytes": 23287, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0}','[]');
INSERT INTO "partitions" VALUES(1,'{"is": "Partition", "id": 1, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": []}, "db": 0, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'0','6cd023f8a529b9bffd3dfe8fbdcc1ca8314cfed2',1,'{"is": "Counts", "copied": 987, "gone": 0, "skipped": 0, "repeated": 0, "failed": 1, "payload_bytes": 22746, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0}','[]');
INSERT INTO "partitions" VALUES(2,'{"is": "Partition", "id": 2, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": []}, "db": 3, "span": {"is": "CursorSpan", "low": 0, "high": 9223372036854775808}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'0','6cd023f8a529b9bffd3dfe8fbdcc1ca8314cfed2',0,'{"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0}','[]');
INSERT INTO "partitions" VALUES(3,'{"is": "Partition", "id": 3, "node": {"is": "Node", "address": null, "id": "", "slots": [], "replicas": []}, "db": 3, "span": {"is": "CursorSpan", "low": 9223372036854775808, "high": 18446744073709551616}, "prefix": null, "beside": [], "slots": null, "reason": "", "work": "copy", "side": "source"}',0,'1','6cd023f8a529b9bffd3dfe8fbdcc1ca8314cfed2',0,'{"is": "Counts", "copied": 0, "gone": 0, "skipped": 0, "repeated": 0, "failed": 0, "payload_bytes": 0, "equal": 0, "different": 0, "missing": 0, "extra": 0, "found": 0, "changing": 0, "deleted": 0}','[]');
COMMIT;
