-- Takes version 4 back: relays are told of each staged job.

CREATE OR REPLACE FUNCTION ledgerq.outbox_message_notify() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_catalog.pg_notify('ledgerq_outbox', '');
    RETURN NULL;
END $body$;

CREATE OR REPLACE TRIGGER outbox_message_notify AFTER INSERT ON ledgerq.outbox_message
FOR EACH STATEMENT EXECUTE FUNCTION ledgerq.outbox_message_notify();

DELETE FROM ledgerq.schema_version WHERE version = 4;
