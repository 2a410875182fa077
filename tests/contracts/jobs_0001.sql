BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE jobs (
	position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name VARCHAR(160) NOT NULL, 
	uid VARCHAR(36) NOT NULL, 
	project VARCHAR(63) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	version INTEGER NOT NULL, 
	document TEXT NOT NULL, 
	UNIQUE (name), 
	UNIQUE (uid)
);
INSERT INTO "jobs" VALUES(1,'projects/p/influenceJobs/done','5f91a4e6-e44a-4b28-a513-8a5e5e4c7074','p','succeeded',3,'{"name":"projects/p/influenceJobs/done","uid":"5f91a4e6-e44a-4b28-a513-8a5e5e4c7074","spec":{"kind":"rank","model":{"uri":"s3://bucket/model/model.json","sha256":null},"train_manifest":{"uri":"s3://bucket/train.jsonl","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},"test_manifest":{"uri":"s3://bucket/test.csv","sha256":null},"queries":{"kind":"confusion","max_queries":null,"pairs":[],"classes":[]},"influence":{"step":{"kind":"unit_steps","radius":0.2,"steps":20},"num_thetas":2,"normalize":true,"distance":"squared_euclidean","metric":"identity","damping":10.0},"top_k":100,"run":{"device":"auto","seed":0,"max_quarantined_fraction":0.01}},"output_uri_prefix":"s3://bucket/out","create_time":"2026-01-02T03:04:05.678000Z","update_time":"2026-01-02T03:04:15.678000Z","display_name":"","labels":{},"referred":null,"state":"succeeded","attempt":1,"crashes":0,"progress":null,"eta_s":null,"start_time":"2026-01-02T03:04:15.678000Z","end_time":"2026-01-02T03:04:15.678000Z","error":null,"output":{"manifest_sha256":"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc","manifest":{"schema_version":1,"name":"projects/p/influenceJobs/done","uid":"5f91a4e6-e44a-4b28-a513-8a5e5e4c7074","attempt":1,"kind":"rank","tables":{"ranking":{"file":"ranking.parquet","sha256":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","rows":7,"bytes":99}},"figures":{"train_samples":7.0},"provenance":{"device":"cpu"},"files":{}}},"version":3}');
INSERT INTO "jobs" VALUES(2,'projects/p/influenceJobs/waits','0792601a-ca2e-4396-8c64-73831e112769','p','pending',1,'{"name":"projects/p/influenceJobs/waits","uid":"0792601a-ca2e-4396-8c64-73831e112769","spec":{"kind":"rank","model":{"uri":"s3://bucket/model/model.json","sha256":null},"train_manifest":{"uri":"s3://bucket/train.jsonl","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},"test_manifest":{"uri":"s3://bucket/test.csv","sha256":null},"queries":{"kind":"confusion","max_queries":null,"pairs":[],"classes":[]},"influence":{"step":{"kind":"unit_steps","radius":0.2,"steps":20},"num_thetas":2,"normalize":true,"distance":"squared_euclidean","metric":"identity","damping":10.0},"top_k":100,"run":{"device":"auto","seed":0,"max_quarantined_fraction":0.01}},"output_uri_prefix":"s3://bucket/out","create_time":"2026-01-02T03:04:05.678000Z","update_time":"2026-01-02T03:04:05.678000Z","display_name":"","labels":{},"referred":null,"state":"pending","attempt":1,"crashes":0,"progress":null,"eta_s":null,"start_time":null,"end_time":null,"error":null,"output":null,"version":1}');
INSERT INTO "jobs" VALUES(3,'projects/p/influenceJobs/running','949f1d96-1936-407c-834b-b19fe5b35119','p','running',2,'{"name":"projects/p/influenceJobs/running","uid":"949f1d96-1936-407c-834b-b19fe5b35119","spec":{"kind":"rank","model":{"uri":"s3://bucket/model/model.json","sha256":null},"train_manifest":{"uri":"s3://bucket/train.jsonl","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},"test_manifest":{"uri":"s3://bucket/test.csv","sha256":null},"queries":{"kind":"confusion","max_queries":null,"pairs":[],"classes":[]},"influence":{"step":{"kind":"unit_steps","radius":0.2,"steps":20},"num_thetas":2,"normalize":true,"distance":"squared_euclidean","metric":"identity","damping":10.0},"top_k":100,"run":{"device":"auto","seed":0,"max_quarantined_fraction":0.01}},"output_uri_prefix":"s3://bucket/out","create_time":"2026-01-02T03:04:05.678000Z","update_time":"2026-01-02T03:04:15.678000Z","display_name":"","labels":{},"referred":null,"state":"running","attempt":1,"crashes":0,"progress":null,"eta_s":null,"start_time":"2026-01-02T03:04:15.678000Z","end_time":null,"error":null,"output":null,"version":2}');
INSERT INTO "jobs" VALUES(4,'projects/p/influenceJobs/stopping','d0afb818-a372-4690-95a0-f7f3041a32d9','p','cancelling',3,'{"name":"projects/p/influenceJobs/stopping","uid":"d0afb818-a372-4690-95a0-f7f3041a32d9","spec":{"kind":"rank","model":{"uri":"s3://bucket/model/model.json","sha256":null},"train_manifest":{"uri":"s3://bucket/train.jsonl","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},"test_manifest":{"uri":"s3://bucket/test.csv","sha256":null},"queries":{"kind":"confusion","max_queries":null,"pairs":[],"classes":[]},"influence":{"step":{"kind":"unit_steps","radius":0.2,"steps":20},"num_thetas":2,"normalize":true,"distance":"squared_euclidean","metric":"identity","damping":10.0},"top_k":100,"run":{"device":"auto","seed":0,"max_quarantined_fraction":0.01}},"output_uri_prefix":"s3://bucket/out","create_time":"2026-01-02T03:04:05.678000Z","update_time":"2026-01-02T03:04:15.678000Z","display_name":"","labels":{},"referred":null,"state":"cancelling","attempt":1,"crashes":0,"progress":null,"eta_s":null,"start_time":"2026-01-02T03:04:15.678000Z","end_time":null,"error":null,"output":null,"version":3}');
CREATE TABLE requests (
	project VARCHAR(63) NOT NULL, 
	request_id VARCHAR(36) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	job_name VARCHAR(160) NOT NULL, 
	job_uid VARCHAR(36) NOT NULL, 
	create_time DATETIME NOT NULL, 
	PRIMARY KEY (project, request_id)
);
INSERT INTO "requests" VALUES('p','123e4567-e89b-42d3-a456-426614174000','d1','projects/p/influenceJobs/done','5f91a4e6-e44a-4b28-a513-8a5e5e4c7074','2026-11-21 14:51:00.244031');
CREATE INDEX jobs_by_state ON jobs (state, position);
CREATE INDEX jobs_by_project ON jobs (project, position);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',4);
COMMIT;
