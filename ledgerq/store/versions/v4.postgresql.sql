-- Version 4: relays are told of staged jobs that are due, not of those that their producer puts on the queue. Frozen: a
-- change is a new version.

CREATE OR REPLACE FUNCTION ledgerq.outbox_message_notify() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF EXISTS (SELECT FROM added WHERE next_dispatch_at <= pg_catalog.clock_timestamp()) THEN
        PERFORM pg_catalog.pg_notify('ledgerq_outbox', '');
    END IF;
    RETURN NULL;
END $body$;

CREATE OR REPLACE TRIGGER outbox_message_notify AFTER INSERT ON ledgerq.outbox_message
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION ledgerq.outbox_message_notify();

INSERT INTO ledgerq.schema_version (version, code_from) VALUES (4, 1) ON CONFLICT DO NOTHING;
