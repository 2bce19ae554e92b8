BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0005');
CREATE TABLE "audit_log" (
	id INTEGER NOT NULL, 
	entity_type VARCHAR(50) NOT NULL, 
	entity_id INTEGER NOT NULL, 
	action VARCHAR(20) NOT NULL, 
	actor VARCHAR(200) NOT NULL, 
	"before" JSON NOT NULL, 
	"after" JSON NOT NULL, 
	job_id VARCHAR(200), 
	kind VARCHAR(100), 
	attempt INTEGER, 
	trace_id VARCHAR(64), 
	at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	CONSTRAINT pk_audit_log PRIMARY KEY (id), 
	CONSTRAINT ck_audit_log_action CHECK (action IN ('create', 'update', 'delete', 'restore', 'purge', 'replay', 'discard', 'cancel'))
);
INSERT INTO "audit_log" VALUES(1,'project',1,'create','ada','{}','{"key": "LCH", "name": "Launch"}','project','create_project',1,'t-1','2026-11-26 06:17:17.302000');
INSERT INTO "audit_log" VALUES(2,'worker',1,'create','ada','{}','{"name": "Ada", "type": "person"}','worker','create_worker',1,'t-1','2026-11-26 06:17:17.417000');
INSERT INTO "audit_log" VALUES(3,'task',1,'create','ada','{}','{"title": "Write", "status": "todo", "priority": "normal", "tags": ["a"], "project_id": 1, "assignee_id": 1}','task','create_task',1,'t-1','2026-11-26 06:17:17.511000');
INSERT INTO "audit_log" VALUES(4,'task',2,'create','ada','{}','{"title": "Read", "status": "todo", "priority": "normal", "project_id": 1, "parent_task_id": 1}','subtask','create_task',1,'t-1','2026-11-26 06:17:17.595000');
INSERT INTO "audit_log" VALUES(5,'task',2,'delete','ada','{"deleted_at": null}','{"deleted_at": "2026-11-26T06:17:17.601690Z"}','gone','delete_task',1,'t-1','2026-11-26 06:17:17.625000');
INSERT INTO "audit_log" VALUES(6,'dead_letter',2,'discard','eve','{"reason": "refused", "error": "MissingReference: project_id: points at a row that does not exist", "attempt": 1}','{"reason": "nobody needs it"}','discarded','create_task',NULL,'t-1','2026-11-26 06:17:17.778000');
INSERT INTO "audit_log" VALUES(7,'job',0,'cancel','eve','{}','{"reason": "came too late"}','cancelled','unknown',NULL,NULL,'2026-11-26 06:17:17.787000');
CREATE TABLE "dead_letter" (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	job_id VARCHAR(200) NOT NULL, 
	kind VARCHAR(100), 
	payload JSON, 
	raw BLOB, 
	reason VARCHAR(50) NOT NULL, 
	error TEXT NOT NULL, 
	problems JSON, 
	traceback TEXT, 
	attempt INTEGER NOT NULL, 
	buried_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	actor VARCHAR(200), 
	trace_id VARCHAR(64), 
	attempts JSON, 
	worker VARCHAR(200), 
	fingerprint VARCHAR(16), 
	CONSTRAINT uq_dead_letter_job_id UNIQUE (job_id)
);
INSERT INTO "dead_letter" VALUES(1,'dead','create_task','{"title": "Nowhere", "project_id": 99}',NULL,'refused','MissingReference: project_id: points at a row that does not exist','[{"field": "project_id", "problem": "points at a row that does not exist"}]','Traceback (most recent call last):
  File "/srv/app/ledgerq/execution/process.py", line 118, in run
    outcomes = await self._in_one_transaction(jobs)
               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/execution/process.py", line 152, in _in_one_transaction
    return await in_transaction(self.sessions, once)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/database/transaction.py", line 75, in in_transaction
    return await work(session)
           ^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/execution/process.py", line 139, in once
    answers = [await handle_alone(session, work[0])]
               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/execution/handlers.py", line 29, in handle_alone
    return await _handled(fence, lambda given: job.handle(_context(given, job)), _bound(job))
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/execution/handlers.py", line 69, in _handled
    return await fence.run(job_id, lambda given: run_apart(lambda: work(given), bound))
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/database/fence.py", line 90, in run
    result = await handle(given)
             ^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/execution/isolation.py", line 49, in run_apart
    answer: T = await _Steps(_awaited(work), context, bound).take()
                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/execution/isolation.py", line 81, in take
    future = self._one(step, value)
             ^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/execution/isolation.py", line 98, in _one
    return self._context.run(step, value)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/ledgerq/execution/isolation.py", line 54, in _awaited
    return await work()
           ^^^^^^^^^^^^
  File "/srv/app/ledgerq/execution/registry.py", line 28, in handle
    return await self.kind.handle(context, self.payload)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/jobs/kinds/create_task.py", line 18, in handle
    task = await tasks.create(context.session, context.origin, new)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/db/tasks.py", line 38, in create
    await writes.add(session, origin, task)
  File "/srv/app/db/writes.py", line 68, in add
    await flush(session, [entity])
  File "/srv/app/ledgerq/store/writes.py", line 65, in flush
    await _check_references(session, entity)
  File "/srv/app/ledgerq/store/writes.py", line 105, in _check_references
    raise MissingReference(str(constraint.name), (constraint.column_keys[0],))
ledgerq.errors.data.MissingReference: project_id: points at a row that does not exist
',1,'2026-11-26 06:17:17.652000','ada','t-1','[{"attempt": 1, "worker": "", "at": "2026-11-26T06:17:17.635+00:00", "error": "MissingReference: project_id: points at a row that does not exist"}]','','ee5c7d5fddf6ac8a');
CREATE TABLE outbox_message (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	job_id VARCHAR(200) NOT NULL, 
	kind VARCHAR(100) NOT NULL, 
	payload JSON NOT NULL, 
	actor VARCHAR(200) NOT NULL, 
	trace_id VARCHAR(64), 
	ordering_key VARCHAR(200), 
	next_dispatch_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	dispatches INTEGER DEFAULT 0 NOT NULL, 
	created_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	CONSTRAINT uq_outbox_message_job_id UNIQUE (job_id)
);
INSERT INTO "outbox_message" VALUES(1,'waits','create_task','{"title": "Waits", "project_id": 1}','bob','t-2','k','2026-11-26 06:17:17.718000',0,'2026-11-26 06:17:17.718000');
INSERT INTO "outbox_message" VALUES(2,'later','create_task','{"title": "Later", "project_id": 1}','unknown',NULL,NULL,'2035-02-12 06:17:17.734000',0,'2026-11-26 06:17:17.734000');
CREATE TABLE "processed_job" (
	job_id VARCHAR(200) NOT NULL, 
	kind VARCHAR(100) NOT NULL, 
	payload_hash BLOB NOT NULL, 
	result JSON, 
	processed_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	state VARCHAR(20) DEFAULT 'done' NOT NULL, 
	attempt INTEGER, 
	CONSTRAINT pk_processed_job PRIMARY KEY (job_id), 
	CONSTRAINT ck_processed_job_state CHECK (state IN ('done', 'cancelled', 'dead'))
);
INSERT INTO "processed_job" VALUES('project','create_project',X'81181F7EB070E7E5D4F16E0EEE38D39C4DCDBF55B0B549510BD6E9ED2053D50C',1,'2026-11-26 06:17:17.277000','done',1);
INSERT INTO "processed_job" VALUES('worker','create_worker',X'9FF8344492328DDF8B869B04F846E8E88C196EBA16D7C541C39C37B465936EEF',1,'2026-11-26 06:17:17.328000','done',1);
INSERT INTO "processed_job" VALUES('task','create_task',X'13C1DCFA32545240A2A61287DD0D917F0DE85F44C0B86F8900188816B6730E7A',1,'2026-11-26 06:17:17.474000','done',1);
INSERT INTO "processed_job" VALUES('subtask','create_task',X'B99F8ED0A5623E08B5EC8AD3F75819C231748F9789AA8BB8B99A18EDA1384A8F',2,'2026-11-26 06:17:17.536000','done',1);
INSERT INTO "processed_job" VALUES('gone','delete_task',X'7935DDC6394FF3A9A63855B9FC390BEE0E604382C8DC87C4B0D9323C6CB4123A','[2]','2026-11-26 06:17:17.601000','done',1);
INSERT INTO "processed_job" VALUES('dead','create_task',X'386AEDAC7D6376B4D105D5B38808236BF1A16BAA9E7C02EB1ABAA9F6D24CA637',NULL,'2026-11-26 06:17:17.642000','dead',1);
INSERT INTO "processed_job" VALUES('discarded','create_task',X'70573F9A19FA25B81B378C38CB2AE8053ADA492D85E2627E141F2B2BC49CF6A6',NULL,'2026-11-26 06:17:17.670000','dead',1);
INSERT INTO "processed_job" VALUES('cancelled','unknown',X'',NULL,'2026-11-26 06:17:17.782000','cancelled',NULL);
CREATE TABLE project (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	"key" TEXT, 
	name TEXT NOT NULL, 
	description TEXT, 
	version INTEGER DEFAULT 1 NOT NULL, 
	created_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	updated_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	CONSTRAINT ck_project_name_length CHECK (length(name) BETWEEN 1 AND 200), 
	CONSTRAINT ck_project_key_length CHECK (length(key) BETWEEN 1 AND 20), 
	CONSTRAINT uq_project_key UNIQUE ("key")
);
INSERT INTO "project" VALUES(1,'LCH','Launch',NULL,1,'2026-11-26 06:17:17.295000','2026-11-26 06:17:17.295000');
CREATE TABLE task (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	title TEXT NOT NULL, 
	description TEXT, 
	status VARCHAR(20) DEFAULT 'todo' NOT NULL, 
	priority VARCHAR(20) DEFAULT 'normal' NOT NULL, 
	tags JSON DEFAULT '[]' NOT NULL, 
	project_id INTEGER NOT NULL, 
	assignee_id INTEGER, 
	created_by_id INTEGER, 
	parent_task_id INTEGER, 
	due_at DATETIME, 
	version INTEGER DEFAULT 1 NOT NULL, 
	created_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	updated_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	deleted_at DATETIME, 
	CONSTRAINT ck_task_title_length CHECK (length(title) BETWEEN 1 AND 500), 
	CONSTRAINT ck_task_parent_task_id_not_own CHECK (parent_task_id <> id), 
	CONSTRAINT fk_task_assignee_id_worker FOREIGN KEY(assignee_id) REFERENCES worker (id) ON DELETE SET NULL, 
	CONSTRAINT fk_task_created_by_id_worker FOREIGN KEY(created_by_id) REFERENCES worker (id) ON DELETE SET NULL, 
	CONSTRAINT fk_task_parent_task_id_task FOREIGN KEY(parent_task_id, project_id) REFERENCES task (id, project_id), 
	CONSTRAINT fk_task_project_id_project FOREIGN KEY(project_id) REFERENCES project (id), 
	CONSTRAINT uq_task_project_id_id UNIQUE (project_id, id), 
	CONSTRAINT ck_task_status CHECK (status IN ('todo', 'in_progress', 'blocked', 'done', 'cancelled')), 
	CONSTRAINT ck_task_priority CHECK (priority IN ('low', 'normal', 'high', 'urgent'))
);
INSERT INTO "task" VALUES(1,'Write',NULL,'todo','normal','["a"]',1,1,NULL,NULL,NULL,1,'2026-11-26 06:17:17.504000','2026-11-26 06:17:17.504000',NULL);
INSERT INTO "task" VALUES(2,'Read',NULL,'todo','normal','[]',1,NULL,NULL,1,NULL,2,'2026-11-26 06:17:17.593000','2026-11-26 06:17:17.623000','2026-11-26 06:17:17.601690');
CREATE TABLE unique_key (
	kind VARCHAR(100) NOT NULL, 
	"key" VARCHAR(200) NOT NULL, 
	job_id VARCHAR(200) NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_unique_key PRIMARY KEY (kind, "key")
);
INSERT INTO "unique_key" VALUES('create_task','one','later','2035-02-12 06:17:17.729000');
CREATE TABLE worker (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name TEXT NOT NULL, 
	type VARCHAR(20) DEFAULT 'person' NOT NULL, 
	version INTEGER DEFAULT 1 NOT NULL, 
	created_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	updated_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL, 
	CONSTRAINT ck_worker_name_length CHECK (length(name) BETWEEN 1 AND 200), 
	CONSTRAINT ck_worker_type CHECK (type IN ('person', 'agent'))
);
INSERT INTO "worker" VALUES(1,'Ada','person',1,'2026-11-26 06:17:17.393000','2026-11-26 06:17:17.393000');
CREATE INDEX ix_task_created_by_id ON task (created_by_id);
CREATE INDEX ix_task_deleted_at ON task (deleted_at);
CREATE INDEX ix_task_parent_task_id ON task (parent_task_id);
CREATE TRIGGER project_touch_updated_at AFTER UPDATE ON project
        WHEN NEW.updated_at IS OLD.updated_at
        BEGIN
            UPDATE project SET updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE id = NEW.id;
        END;
CREATE TRIGGER worker_touch_updated_at AFTER UPDATE ON worker
        WHEN NEW.updated_at IS OLD.updated_at
        BEGIN
            UPDATE worker SET updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE id = NEW.id;
        END;
CREATE TRIGGER task_touch_updated_at AFTER UPDATE ON task
        WHEN NEW.updated_at IS OLD.updated_at
        BEGIN
            UPDATE task SET updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE id = NEW.id;
        END;
CREATE INDEX ix_task_assignee_id_id ON task (assignee_id, id);
CREATE INDEX ix_task_due_at_id ON task (due_at, id);
CREATE INDEX ix_task_tags ON task (tags);
CREATE INDEX ix_outbox_message_due ON outbox_message (next_dispatch_at, seq);
CREATE INDEX ix_outbox_message_ordering ON outbox_message (ordering_key, seq);
CREATE INDEX ix_unique_key_expires_at ON unique_key (expires_at);
CREATE INDEX ix_dead_letter_buried_at ON dead_letter (buried_at);
CREATE INDEX ix_audit_log_entity ON audit_log (entity_type, entity_id, id);
CREATE INDEX ix_audit_log_job_id ON audit_log (job_id);
CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: UPDATE refused'); END;
CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: DELETE refused'); END;
CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
    WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: REPLACE refused'); END;
CREATE INDEX ix_dead_letter_fingerprint ON dead_letter (fingerprint);
CREATE INDEX ix_processed_job_processed_at ON processed_job (processed_at);
CREATE INDEX ix_unique_key_job_id ON unique_key (job_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('dead_letter',2);
INSERT INTO "sqlite_sequence" VALUES('project',1);
INSERT INTO "sqlite_sequence" VALUES('worker',1);
INSERT INTO "sqlite_sequence" VALUES('task',2);
INSERT INTO "sqlite_sequence" VALUES('outbox_message',2);
COMMIT;
