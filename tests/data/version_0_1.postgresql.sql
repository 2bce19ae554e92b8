SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

CREATE FUNCTION public.audit_log_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
        BEGIN
            RAISE EXCEPTION 'audit_log is append-only: % refused', TG_OP
                USING ERRCODE = 'insufficient_privilege';
        END $$;

CREATE FUNCTION public.canonical_payload(value jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET extra_float_digits TO '1'
    AS $$
DECLARE
    number numeric;
BEGIN
    CASE jsonb_typeof(value)
    WHEN 'object' THEN
        RETURN '{' || coalesce((
            SELECT string_agg(
                to_json(field.key)::text || ':' || public.canonical_payload(field.value), ','
                ORDER BY field.key COLLATE "C"
            ) FROM jsonb_each(canonical_payload.value) AS field
        ), '') || '}';
    WHEN 'array' THEN
        RETURN '[' || coalesce((
            SELECT string_agg(public.canonical_payload(element.value), ',' ORDER BY element.place)
            FROM jsonb_array_elements(canonical_payload.value)
                WITH ORDINALITY AS element(value, place)
        ), '') || ']';
    WHEN 'string' THEN
        RETURN to_json(value #>> '{}')::text;
    WHEN 'number' THEN
        number := trim_scale(value::numeric);
        IF scale(number) = 0 THEN
            RETURN number::text;
        ELSIF abs(number) < 0.0001 OR abs(number) >= 1e15 THEN
            RETURN chr(1);  -- Python may write it in another way
        END IF;
        RETURN number::float8::text;
    ELSE
        RETURN value::text;
    END CASE;
END $$;

CREATE FUNCTION public.enqueue_job(kind text, payload jsonb DEFAULT '{}'::jsonb, job_id text DEFAULT NULL::text, actor text DEFAULT 'sql'::text, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, ordering_key text DEFAULT NULL::text, trace_id text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
#variable_conflict use_column
DECLARE
    unprintable CONSTANT text := $re$[\u0001-\u001f\u007f-\u00a0\u00ad\u0378\u0379\u0380-\u0383\u038b\u038d\u03a2\u0530\u0557\u0558\u058b\u058c\u0590\u05c8-\u05cf\u05eb-\u05ee\u05f5-\u0605\u061c\u06dd\u070e\u070f\u074b\u074c\u07b2-\u07bf\u07fb\u07fc\u082e\u082f\u083f\u085c\u085d\u085f\u086b-\u086f\u088f-\u0897\u08e2\u0984\u098d\u098e\u0991\u0992\u09a9\u09b1\u09b3-\u09b5\u09ba\u09bb\u09c5\u09c6\u09c9\u09ca\u09cf-\u09d6\u09d8-\u09db\u09de\u09e4\u09e5\u09ff\u0a00\u0a04\u0a0b-\u0a0e\u0a11\u0a12\u0a29\u0a31\u0a34\u0a37\u0a3a\u0a3b\u0a3d\u0a43-\u0a46\u0a49\u0a4a\u0a4e-\u0a50\u0a52-\u0a58\u0a5d\u0a5f-\u0a65\u0a77-\u0a80\u0a84\u0a8e\u0a92\u0aa9\u0ab1\u0ab4\u0aba\u0abb\u0ac6\u0aca\u0ace\u0acf\u0ad1-\u0adf\u0ae4\u0ae5\u0af2-\u0af8\u0b00\u0b04\u0b0d\u0b0e\u0b11\u0b12\u0b29\u0b31\u0b34\u0b3a\u0b3b\u0b45\u0b46\u0b49\u0b4a\u0b4e-\u0b54\u0b58-\u0b5b\u0b5e\u0b64\u0b65\u0b78-\u0b81\u0b84\u0b8b-\u0b8d\u0b91\u0b96-\u0b98\u0b9b\u0b9d\u0ba0-\u0ba2\u0ba5-\u0ba7\u0bab-\u0bad\u0bba-\u0bbd\u0bc3-\u0bc5\u0bc9\u0bce\u0bcf\u0bd1-\u0bd6\u0bd8-\u0be5\u0bfb-\u0bff\u0c0d\u0c11\u0c29\u0c3a\u0c3b\u0c45\u0c49\u0c4e-\u0c54\u0c57\u0c5b\u0c5c\u0c5e\u0c5f\u0c64\u0c65\u0c70-\u0c76\u0c8d\u0c91\u0ca9\u0cb4\u0cba\u0cbb\u0cc5\u0cc9\u0cce-\u0cd4\u0cd7-\u0cdc\u0cdf\u0ce4\u0ce5\u0cf0\u0cf3-\u0cff\u0d0d\u0d11\u0d45\u0d49\u0d50-\u0d53\u0d64\u0d65\u0d80\u0d84\u0d97-\u0d99\u0db2\u0dbc\u0dbe\u0dbf\u0dc7-\u0dc9\u0dcb-\u0dce\u0dd5\u0dd7\u0de0-\u0de5\u0df0\u0df1\u0df5-\u0e00\u0e3b-\u0e3e\u0e5c-\u0e80\u0e83\u0e85\u0e8b\u0ea4\u0ea6\u0ebe\u0ebf\u0ec5\u0ec7\u0ece\u0ecf\u0eda\u0edb\u0ee0-\u0eff\u0f48\u0f6d-\u0f70\u0f98\u0fbd\u0fcd\u0fdb-\u0fff\u10c6\u10c8-\u10cc\u10ce\u10cf\u1249\u124e\u124f\u1257\u1259\u125e\u125f\u1289\u128e\u128f\u12b1\u12b6\u12b7\u12bf\u12c1\u12c6\u12c7\u12d7\u1311\u1316\u1317\u135b\u135c\u137d-\u137f\u139a-\u139f\u13f6\u13f7\u13fe\u13ff\u1680\u169d-\u169f\u16f9-\u16ff\u1716-\u171e\u1737-\u173f\u1754-\u175f\u176d\u1771\u1774-\u177f\u17de\u17df\u17ea-\u17ef\u17fa-\u17ff\u180e\u181a-\u181f\u1879-\u187f\u18ab-\u18af\u18f6-\u18ff\u191f\u192c-\u192f\u193c-\u193f\u1941-\u1943\u196e\u196f\u1975-\u197f\u19ac-\u19af\u19ca-\u19cf\u19db-\u19dd\u1a1c\u1a1d\u1a5f\u1a7d\u1a7e\u1a8a-\u1a8f\u1a9a-\u1a9f\u1aae\u1aaf\u1acf-\u1aff\u1b4d-\u1b4f\u1b7f\u1bf4-\u1bfb\u1c38-\u1c3a\u1c4a-\u1c4c\u1c89-\u1c8f\u1cbb\u1cbc\u1cc8-\u1ccf\u1cfb-\u1cff\u1f16\u1f17\u1f1e\u1f1f\u1f46\u1f47\u1f4e\u1f4f\u1f58\u1f5a\u1f5c\u1f5e\u1f7e\u1f7f\u1fb5\u1fc5\u1fd4\u1fd5\u1fdc\u1ff0\u1ff1\u1ff5\u1fff-\u200f\u2028-\u202f\u205f-\u206f\u2072\u2073\u208f\u209d-\u209f\u20c1-\u20cf\u20f1-\u20ff\u218c-\u218f\u2427-\u243f\u244b-\u245f\u2b74\u2b75\u2b96\u2cf4-\u2cf8\u2d26\u2d28-\u2d2c\u2d2e\u2d2f\u2d68-\u2d6e\u2d71-\u2d7e\u2d97-\u2d9f\u2da7\u2daf\u2db7\u2dbf\u2dc7\u2dcf\u2dd7\u2ddf\u2e5e-\u2e7f\u2e9a\u2ef4-\u2eff\u2fd6-\u2fef\u2ffc-\u3000\u3040\u3097\u3098\u3100-\u3104\u3130\u318f\u31e4-\u31ef\u321f\ua48d-\ua48f\ua4c7-\ua4cf\ua62c-\ua63f\ua6f8-\ua6ff\ua7cb-\ua7cf\ua7d2\ua7d4\ua7da-\ua7f1\ua82d-\ua82f\ua83a-\ua83f\ua878-\ua87f\ua8c6-\ua8cd\ua8da-\ua8df\ua954-\ua95e\ua97d-\ua97f\ua9ce\ua9da-\ua9dd\ua9ff\uaa37-\uaa3f\uaa4e\uaa4f\uaa5a\uaa5b\uaac3-\uaada\uaaf7-\uab00\uab07\uab08\uab0f\uab10\uab17-\uab1f\uab27\uab2f\uab6c-\uab6f\uabee\uabef\uabfa-\uabff\ud7a4-\ud7af\ud7c7-\ud7ca\ud7fc-\ud7ff\ue000-\uf8ff\ufa6e\ufa6f\ufada-\ufaff\ufb07-\ufb12\ufb18-\ufb1c\ufb37\ufb3d\ufb3f\ufb42\ufb45\ufbc3-\ufbd2\ufd90\ufd91\ufdc8-\ufdce\ufdd0-\ufdef\ufe1a-\ufe1f\ufe53\ufe67\ufe6c-\ufe6f\ufe75\ufefd-\uff00\uffbf-\uffc1\uffc8\uffc9\uffd0\uffd1\uffd8\uffd9\uffdd-\uffdf\uffe7\uffef-\ufffb\ufffe\uffff\U0001000c\U00010027\U0001003b\U0001003e\U0001004e\U0001004f\U0001005e-\U0001007f\U000100fb-\U000100ff\U00010103-\U00010106\U00010134-\U00010136\U0001018f\U0001019d-\U0001019f\U000101a1-\U000101cf\U000101fe-\U0001027f\U0001029d-\U0001029f\U000102d1-\U000102df\U000102fc-\U000102ff\U00010324-\U0001032c\U0001034b-\U0001034f\U0001037b-\U0001037f\U0001039e\U000103c4-\U000103c7\U000103d6-\U000103ff\U0001049e\U0001049f\U000104aa-\U000104af\U000104d4-\U000104d7\U000104fc-\U000104ff\U00010528-\U0001052f\U00010564-\U0001056e\U0001057b\U0001058b\U00010593\U00010596\U000105a2\U000105b2\U000105ba\U000105bd-\U000105ff\U00010737-\U0001073f\U00010756-\U0001075f\U00010768-\U0001077f\U00010786\U000107b1\U000107bb-\U000107ff\U00010806\U00010807\U00010809\U00010836\U00010839-\U0001083b\U0001083d\U0001083e\U00010856\U0001089f-\U000108a6\U000108b0-\U000108df\U000108f3\U000108f6-\U000108fa\U0001091c-\U0001091e\U0001093a-\U0001093e\U00010940-\U0001097f\U000109b8-\U000109bb\U000109d0\U000109d1\U00010a04\U00010a07-\U00010a0b\U00010a14\U00010a18\U00010a36\U00010a37\U00010a3b-\U00010a3e\U00010a49-\U00010a4f\U00010a59-\U00010a5f\U00010aa0-\U00010abf\U00010ae7-\U00010aea\U00010af7-\U00010aff\U00010b36-\U00010b38\U00010b56\U00010b57\U00010b73-\U00010b77\U00010b92-\U00010b98\U00010b9d-\U00010ba8\U00010bb0-\U00010bff\U00010c49-\U00010c7f\U00010cb3-\U00010cbf\U00010cf3-\U00010cf9\U00010d28-\U00010d2f\U00010d3a-\U00010e5f\U00010e7f\U00010eaa\U00010eae\U00010eaf\U00010eb2-\U00010eff\U00010f28-\U00010f2f\U00010f5a-\U00010f6f\U00010f8a-\U00010faf\U00010fcc-\U00010fdf\U00010ff7-\U00010fff\U0001104e-\U00011051\U00011076-\U0001107e\U000110bd\U000110c3-\U000110cf\U000110e9-\U000110ef\U000110fa-\U000110ff\U00011135\U00011148-\U0001114f\U00011177-\U0001117f\U000111e0\U000111f5-\U000111ff\U00011212\U0001123f-\U0001127f\U00011287\U00011289\U0001128e\U0001129e\U000112aa-\U000112af\U000112eb-\U000112ef\U000112fa-\U000112ff\U00011304\U0001130d\U0001130e\U00011311\U00011312\U00011329\U00011331\U00011334\U0001133a\U00011345\U00011346\U00011349\U0001134a\U0001134e\U0001134f\U00011351-\U00011356\U00011358-\U0001135c\U00011364\U00011365\U0001136d-\U0001136f\U00011375-\U000113ff\U0001145c\U00011462-\U0001147f\U000114c8-\U000114cf\U000114da-\U0001157f\U000115b6\U000115b7\U000115de-\U000115ff\U00011645-\U0001164f\U0001165a-\U0001165f\U0001166d-\U0001167f\U000116ba-\U000116bf\U000116ca-\U000116ff\U0001171b\U0001171c\U0001172c-\U0001172f\U00011747-\U000117ff\U0001183c-\U0001189f\U000118f3-\U000118fe\U00011907\U00011908\U0001190a\U0001190b\U00011914\U00011917\U00011936\U00011939\U0001193a\U00011947-\U0001194f\U0001195a-\U0001199f\U000119a8\U000119a9\U000119d8\U000119d9\U000119e5-\U000119ff\U00011a48-\U00011a4f\U00011aa3-\U00011aaf\U00011af9-\U00011bff\U00011c09\U00011c37\U00011c46-\U00011c4f\U00011c6d-\U00011c6f\U00011c90\U00011c91\U00011ca8\U00011cb7-\U00011cff\U00011d07\U00011d0a\U00011d37-\U00011d39\U00011d3b\U00011d3e\U00011d48-\U00011d4f\U00011d5a-\U00011d5f\U00011d66\U00011d69\U00011d8f\U00011d92\U00011d99-\U00011d9f\U00011daa-\U00011edf\U00011ef9-\U00011faf\U00011fb1-\U00011fbf\U00011ff2-\U00011ffe\U0001239a-\U000123ff\U0001246f\U00012475-\U0001247f\U00012544-\U00012f8f\U00012ff3-\U00012fff\U0001342f-\U000143ff\U00014647-\U000167ff\U00016a39-\U00016a3f\U00016a5f\U00016a6a-\U00016a6d\U00016abf\U00016aca-\U00016acf\U00016aee\U00016aef\U00016af6-\U00016aff\U00016b46-\U00016b4f\U00016b5a\U00016b62\U00016b78-\U00016b7c\U00016b90-\U00016e3f\U00016e9b-\U00016eff\U00016f4b-\U00016f4e\U00016f88-\U00016f8e\U00016fa0-\U00016fdf\U00016fe5-\U00016fef\U00016ff2-\U00016fff\U000187f8-\U000187ff\U00018cd6-\U00018cff\U00018d09-\U0001afef\U0001aff4\U0001affc\U0001afff\U0001b123-\U0001b14f\U0001b153-\U0001b163\U0001b168-\U0001b16f\U0001b2fc-\U0001bbff\U0001bc6b-\U0001bc6f\U0001bc7d-\U0001bc7f\U0001bc89-\U0001bc8f\U0001bc9a\U0001bc9b\U0001bca0-\U0001ceff\U0001cf2e\U0001cf2f\U0001cf47-\U0001cf4f\U0001cfc4-\U0001cfff\U0001d0f6-\U0001d0ff\U0001d127\U0001d128\U0001d173-\U0001d17a\U0001d1eb-\U0001d1ff\U0001d246-\U0001d2df\U0001d2f4-\U0001d2ff\U0001d357-\U0001d35f\U0001d379-\U0001d3ff\U0001d455\U0001d49d\U0001d4a0\U0001d4a1\U0001d4a3\U0001d4a4\U0001d4a7\U0001d4a8\U0001d4ad\U0001d4ba\U0001d4bc\U0001d4c4\U0001d506\U0001d50b\U0001d50c\U0001d515\U0001d51d\U0001d53a\U0001d53f\U0001d545\U0001d547-\U0001d549\U0001d551\U0001d6a6\U0001d6a7\U0001d7cc\U0001d7cd\U0001da8c-\U0001da9a\U0001daa0\U0001dab0-\U0001deff\U0001df1f-\U0001dfff\U0001e007\U0001e019\U0001e01a\U0001e022\U0001e025\U0001e02b-\U0001e0ff\U0001e12d-\U0001e12f\U0001e13e\U0001e13f\U0001e14a-\U0001e14d\U0001e150-\U0001e28f\U0001e2af-\U0001e2bf\U0001e2fa-\U0001e2fe\U0001e300-\U0001e7df\U0001e7e7\U0001e7ec\U0001e7ef\U0001e7ff\U0001e8c5\U0001e8c6\U0001e8d7-\U0001e8ff\U0001e94c-\U0001e94f\U0001e95a-\U0001e95d\U0001e960-\U0001ec70\U0001ecb5-\U0001ed00\U0001ed3e-\U0001edff\U0001ee04\U0001ee20\U0001ee23\U0001ee25\U0001ee26\U0001ee28\U0001ee33\U0001ee38\U0001ee3a\U0001ee3c-\U0001ee41\U0001ee43-\U0001ee46\U0001ee48\U0001ee4a\U0001ee4c\U0001ee50\U0001ee53\U0001ee55\U0001ee56\U0001ee58\U0001ee5a\U0001ee5c\U0001ee5e\U0001ee60\U0001ee63\U0001ee65\U0001ee66\U0001ee6b\U0001ee73\U0001ee78\U0001ee7d\U0001ee7f\U0001ee8a\U0001ee9c-\U0001eea0\U0001eea4\U0001eeaa\U0001eebc-\U0001eeef\U0001eef2-\U0001efff\U0001f02c-\U0001f02f\U0001f094-\U0001f09f\U0001f0af\U0001f0b0\U0001f0c0\U0001f0d0\U0001f0f6-\U0001f0ff\U0001f1ae-\U0001f1e5\U0001f203-\U0001f20f\U0001f23c-\U0001f23f\U0001f249-\U0001f24f\U0001f252-\U0001f25f\U0001f266-\U0001f2ff\U0001f6d8-\U0001f6dc\U0001f6ed-\U0001f6ef\U0001f6fd-\U0001f6ff\U0001f774-\U0001f77f\U0001f7d9-\U0001f7df\U0001f7ec-\U0001f7ef\U0001f7f1-\U0001f7ff\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae\U0001f8af\U0001f8b2-\U0001f8ff\U0001fa54-\U0001fa5f\U0001fa6e\U0001fa6f\U0001fa75-\U0001fa77\U0001fa7d-\U0001fa7f\U0001fa87-\U0001fa8f\U0001faad-\U0001faaf\U0001fabb-\U0001fabf\U0001fac6-\U0001facf\U0001fada-\U0001fadf\U0001fae8-\U0001faef\U0001faf7-\U0001faff\U0001fb93\U0001fbcb-\U0001fbef\U0001fbfa-\U0001ffff\U0002a6e0-\U0002a6ff\U0002b739-\U0002b73f\U0002b81e\U0002b81f\U0002cea2-\U0002ceaf\U0002ebe1-\U0002f7ff\U0002fa1e-\U0002ffff\U0003134b-\U000e00ff\U000e01f0-\U0010ffff]$re$;
    id text := coalesce(enqueue_job.job_id, replace(gen_random_uuid()::text, '-', ''));
    author text := coalesce(enqueue_job.actor, 'sql');
    written text := enqueue_job.payload::text;
    is_new boolean;
    is_same boolean;
    ended record;
    known text;
BEGIN
    IF coalesce(length(enqueue_job.kind), 0) NOT BETWEEN 1 AND 100
        OR enqueue_job.kind ~ unprintable OR starts_with(enqueue_job.kind, 'cron:')
    THEN
        RAISE EXCEPTION 'kind: must have 1 to 100 characters, all printable, and not begin with cron:'
            USING ERRCODE = '22023';
    END IF;
    IF length(id) NOT BETWEEN 1 AND 200
        OR length(author) NOT BETWEEN 1 AND 200
        OR length(enqueue_job.ordering_key) NOT BETWEEN 1 AND 200
        OR length(enqueue_job.trace_id) NOT BETWEEN 1 AND 64
        OR concat(id, author, enqueue_job.ordering_key, enqueue_job.trace_id) ~ unprintable
    THEN
        RAISE EXCEPTION '%: must have 1 to % printable characters, or be null',
            CASE
                WHEN length(id) NOT BETWEEN 1 AND 200 OR id ~ unprintable THEN 'job_id'
                WHEN length(author) NOT BETWEEN 1 AND 200 OR author ~ unprintable THEN 'actor'
                WHEN length(enqueue_job.ordering_key) NOT BETWEEN 1 AND 200
                    OR enqueue_job.ordering_key ~ unprintable THEN 'ordering_key'
                ELSE 'trace_id'
            END,
            CASE
                WHEN length(id) NOT BETWEEN 1 AND 200 OR id ~ unprintable THEN 200
                WHEN length(author) NOT BETWEEN 1 AND 200 OR author ~ unprintable THEN 200
                WHEN length(enqueue_job.ordering_key) NOT BETWEEN 1 AND 200
                    OR enqueue_job.ordering_key ~ unprintable THEN 200
                ELSE 64
            END
            USING ERRCODE = '22023';
    END IF;
    IF NOT isfinite(enqueue_job.run_at) OR enqueue_job.run_at > now() + interval '3650 days' THEN
        RAISE EXCEPTION 'run_at: must be a time within the next 3650 days, or be null'
            USING ERRCODE = '22023';
    END IF;
    IF jsonb_typeof(enqueue_job.payload) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'payload: must be a JSON object' USING ERRCODE = '22023';
    END IF;
    IF strpos(written, '"_') > 0 AND EXISTS (
        SELECT FROM jsonb_object_keys(enqueue_job.payload) AS name WHERE starts_with(name, '_')
    )
    THEN
        RAISE EXCEPTION 'payload: names that begin with _ are reserved' USING ERRCODE = '22023';
    END IF;
    IF octet_length(written) > 900000 THEN  -- written with blanks, which the wire has not
        IF octet_length(written) > 1500000 OR octet_length(
            regexp_replace(written, $re$("(?:[^"\\]|\\.)*")|\s+$re$, $re$\1$re$, 'g')
        ) > 900000 THEN
            RAISE EXCEPTION 'payload: must have at most 900000 bytes' USING ERRCODE = '22023';
        END IF;
    END IF;
    -- each opening bracket is one of the text; a number has all its digits in it
    IF octet_length(written) > 300 THEN
        IF octet_length(written) - octet_length(translate(written, '[{', '')) > 150
            AND jsonb_path_exists(enqueue_job.payload, '$.**{200}')
        THEN
            RAISE EXCEPTION 'payload: must be nested at most 200 deep' USING ERRCODE = '22023';
        END IF;
        IF written ~ '[0-9]{250}'
            AND jsonb_path_exists(enqueue_job.payload, 'strict $.** ? (@ >= 1e308 || @ <= -1e308)')
        THEN
            RAISE EXCEPTION 'payload: holds a number that is too large' USING ERRCODE = '22023';
        END IF;
    END IF;
    IF enqueue_job.ordering_key IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(enqueue_job.ordering_key, 0));
    END IF;
    LOOP
        INSERT INTO public.outbox_message
            (job_id, kind, payload, actor, trace_id, ordering_key, next_dispatch_at)
        VALUES (id, enqueue_job.kind, enqueue_job.payload, author, enqueue_job.trace_id,
            enqueue_job.ordering_key, greatest(enqueue_job.run_at, now()))
        ON CONFLICT (job_id) DO NOTHING;
        is_new := FOUND;
        IF is_new AND enqueue_job.job_id IS NULL THEN
            RETURN id;
        END IF;
        IF NOT is_new THEN
            is_same := NULL;
            SELECT staged.kind = enqueue_job.kind AND staged.payload = enqueue_job.payload
                INTO is_same FROM public.outbox_message AS staged WHERE staged.job_id = id;
            IF is_same THEN
                RETURN id;
            ELSIF NOT is_same THEN
                RAISE EXCEPTION 'job_id: % is staged with another payload; use a new id for new work', id
                    USING ERRCODE = '23505';
            END IF;
        END IF;
        SELECT processed.kind, processed.payload_hash
            INTO ended FROM public.processed_job AS processed WHERE processed.job_id = id;
        IF FOUND THEN
            IF is_new THEN  -- it has ended, so it is not to run once more
                DELETE FROM public.outbox_message AS staged WHERE staged.job_id = id;
            END IF;
            -- of one that was never read no hash is known; of some numbers SQL can't tell it
            known := '[' || to_json(enqueue_job.kind)::text || ','
                || public.canonical_payload(enqueue_job.payload) || ']';
            IF octet_length(ended.payload_hash) > 0 AND (
                ended.kind <> enqueue_job.kind OR strpos(known, chr(1)) = 0
                AND ended.payload_hash <> sha256(convert_to(known, 'UTF8'))
            ) THEN
                RAISE EXCEPTION 'job_id: % has ended with another payload; use a new id for new work', id
                    USING ERRCODE = '23505';
            END IF;
            RETURN id;
        ELSIF is_new THEN
            RETURN id;
        END IF;
    END LOOP;  -- the job ended between the looks: the next one sees how
END $_$;

CREATE FUNCTION public.outbox_message_notify() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('ledgerq_outbox', '');
    RETURN NULL;
END $$;

CREATE FUNCTION public.touch_updated_at() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.updated_at := pg_catalog.now();
    RETURN NEW;
END $$;

SET default_tablespace = '';

SET default_table_access_method = heap;

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    entity_type character varying(50) NOT NULL,
    entity_id bigint NOT NULL,
    action character varying(20) NOT NULL,
    actor character varying(200) NOT NULL,
    before jsonb NOT NULL,
    after jsonb NOT NULL,
    job_id character varying(200),
    kind character varying(100),
    attempt integer,
    trace_id character varying(64),
    at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ck_audit_log_action CHECK (((action)::text = ANY ((ARRAY['create'::character varying, 'update'::character varying, 'delete'::character varying, 'restore'::character varying, 'purge'::character varying, 'replay'::character varying, 'discard'::character varying, 'cancel'::character varying])::text[])))
);

CREATE SEQUENCE public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.audit_log_id_seq OWNED BY public.audit_log.id;

CREATE TABLE public.dead_letter (
    id bigint NOT NULL,
    job_id character varying(200) NOT NULL,
    kind character varying(100),
    payload jsonb,
    raw bytea,
    reason character varying(50) NOT NULL,
    error text NOT NULL,
    problems jsonb,
    traceback text,
    attempt integer NOT NULL,
    buried_at timestamp with time zone DEFAULT now() NOT NULL,
    actor character varying(200),
    trace_id character varying(64),
    attempts jsonb,
    worker character varying(200),
    fingerprint character varying(16)
);

CREATE SEQUENCE public.dead_letter_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.dead_letter_id_seq OWNED BY public.dead_letter.id;

CREATE TABLE public.outbox_message (
    seq bigint NOT NULL,
    job_id character varying(200) NOT NULL,
    kind character varying(100) NOT NULL,
    payload jsonb NOT NULL,
    actor character varying(200) NOT NULL,
    trace_id character varying(64),
    ordering_key character varying(200),
    next_dispatch_at timestamp with time zone DEFAULT now() NOT NULL,
    dispatches integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE SEQUENCE public.outbox_message_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.outbox_message_seq_seq OWNED BY public.outbox_message.seq;

CREATE TABLE public.processed_job (
    job_id character varying(200) NOT NULL,
    kind character varying(100) NOT NULL,
    payload_hash bytea NOT NULL,
    result jsonb,
    processed_at timestamp with time zone DEFAULT now() NOT NULL,
    state character varying(20) DEFAULT 'done'::character varying NOT NULL,
    attempt integer,
    CONSTRAINT ck_processed_job_state CHECK (((state)::text = ANY ((ARRAY['done'::character varying, 'cancelled'::character varying, 'dead'::character varying])::text[])))
);

CREATE TABLE public.project (
    id bigint NOT NULL,
    key text,
    name text NOT NULL,
    description text,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ck_project_key_length CHECK (((length(key) >= 1) AND (length(key) <= 20))),
    CONSTRAINT ck_project_name_length CHECK (((length(name) >= 1) AND (length(name) <= 200)))
);

CREATE SEQUENCE public.project_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.project_id_seq OWNED BY public.project.id;

CREATE TABLE public.task (
    id bigint NOT NULL,
    title text NOT NULL,
    description text,
    status character varying(20) DEFAULT 'todo'::character varying NOT NULL,
    priority character varying(20) DEFAULT 'normal'::character varying NOT NULL,
    tags jsonb DEFAULT '[]'::jsonb NOT NULL,
    project_id bigint NOT NULL,
    assignee_id bigint,
    created_by_id bigint,
    parent_task_id bigint,
    due_at timestamp with time zone,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT ck_task_parent_task_id_not_own CHECK ((parent_task_id <> id)),
    CONSTRAINT ck_task_priority CHECK (((priority)::text = ANY ((ARRAY['low'::character varying, 'normal'::character varying, 'high'::character varying, 'urgent'::character varying])::text[]))),
    CONSTRAINT ck_task_status CHECK (((status)::text = ANY ((ARRAY['todo'::character varying, 'in_progress'::character varying, 'blocked'::character varying, 'done'::character varying, 'cancelled'::character varying])::text[]))),
    CONSTRAINT ck_task_tags_is_list CHECK ((jsonb_typeof(tags) = 'array'::text)),
    CONSTRAINT ck_task_title_length CHECK (((length(title) >= 1) AND (length(title) <= 500)))
);

CREATE SEQUENCE public.task_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.task_id_seq OWNED BY public.task.id;

CREATE TABLE public.unique_key (
    kind character varying(100) NOT NULL,
    key character varying(200) NOT NULL,
    job_id character varying(200) NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

CREATE TABLE public.worker (
    id bigint NOT NULL,
    name text NOT NULL,
    type character varying(20) DEFAULT 'person'::character varying NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ck_worker_name_length CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT ck_worker_type CHECK (((type)::text = ANY ((ARRAY['person'::character varying, 'agent'::character varying])::text[])))
);

CREATE SEQUENCE public.worker_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.worker_id_seq OWNED BY public.worker.id;

ALTER TABLE ONLY public.audit_log ALTER COLUMN id SET DEFAULT nextval('public.audit_log_id_seq'::regclass);

ALTER TABLE ONLY public.dead_letter ALTER COLUMN id SET DEFAULT nextval('public.dead_letter_id_seq'::regclass);

ALTER TABLE ONLY public.outbox_message ALTER COLUMN seq SET DEFAULT nextval('public.outbox_message_seq_seq'::regclass);

ALTER TABLE ONLY public.project ALTER COLUMN id SET DEFAULT nextval('public.project_id_seq'::regclass);

ALTER TABLE ONLY public.task ALTER COLUMN id SET DEFAULT nextval('public.task_id_seq'::regclass);

ALTER TABLE ONLY public.worker ALTER COLUMN id SET DEFAULT nextval('public.worker_id_seq'::regclass);

INSERT INTO public.alembic_version VALUES ('0005');

INSERT INTO public.audit_log VALUES (1, 'project', 1, 'create', 'ada', '{}', '{"key": "LCH", "name": "Launch"}', 'project', 'create_project', 1, 't-1', '2026-11-26 06:16:58.227629+00');
INSERT INTO public.audit_log VALUES (2, 'worker', 1, 'create', 'ada', '{}', '{"name": "Ada", "type": "person"}', 'worker', 'create_worker', 1, 't-1', '2026-11-26 06:16:58.428673+00');
INSERT INTO public.audit_log VALUES (3, 'task', 1, 'create', 'ada', '{}', '{"tags": ["a"], "title": "Write", "status": "todo", "priority": "normal", "project_id": 1, "assignee_id": 1}', 'task', 'create_task', 1, 't-1', '2026-11-26 06:16:58.555591+00');
INSERT INTO public.audit_log VALUES (4, 'task', 2, 'create', 'ada', '{}', '{"title": "Read", "status": "todo", "priority": "normal", "project_id": 1, "parent_task_id": 1}', 'subtask', 'create_task', 1, 't-1', '2026-11-26 06:16:58.600834+00');
INSERT INTO public.audit_log VALUES (5, 'task', 2, 'delete', 'ada', '{"deleted_at": null}', '{"deleted_at": "2026-11-26T06:16:58.696876Z"}', 'gone', 'delete_task', 1, 't-1', '2026-11-26 06:16:58.689711+00');
INSERT INTO public.audit_log VALUES (6, 'dead_letter', 2, 'discard', 'eve', '{"error": "MissingReference: project_id: points at a row that does not exist", "reason": "refused", "attempt": 1}', '{"reason": "nobody needs it"}', 'discarded', 'create_task', NULL, 't-1', '2026-11-26 06:16:59.302108+00');
INSERT INTO public.audit_log VALUES (7, 'job', 0, 'cancel', 'eve', '{}', '{"reason": "came too late"}', 'cancelled', 'unknown', NULL, NULL, '2026-11-26 06:16:59.302108+00');

INSERT INTO public.dead_letter VALUES (1, 'dead', 'create_task', '{"title": "Nowhere", "project_id": 99}', NULL, 'refused', 'MissingReference: project_id: points at a row that does not exist', '[{"field": "project_id", "problem": "points at a row that does not exist"}]', 'Traceback (most recent call last):
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 620, in _prepare_and_execute
    self._rows = deque(await prepared_stmt.fetch(*parameters))
                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/asyncpg/prepared_stmt.py", line 177, in fetch
    data = await self.__bind_execute(args, 0, timeout)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/asyncpg/prepared_stmt.py", line 268, in __bind_execute
    data, status, _ = await self.__do_execute(
                      ^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/asyncpg/prepared_stmt.py", line 257, in __do_execute
    return await executor(protocol)
           ^^^^^^^^^^^^^^^^^^^^^^^^
  File "asyncpg/protocol/protocol.pyx", line 197, in bind_execute
  File "/srv/app/ledgerq/execution/isolation.py", line 85, in take
    step, value = self._work.send, (yield future)
                                    ^^^^^^^^^^^^
asyncpg.exceptions.ForeignKeyViolationError: insert or update on table "task" violates foreign key constraint "fk_task_project_id_project"
DETAIL:  Key (project_id)=(99) is not present in table "project".

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/srv/lib/sqlalchemy/engine/base.py", line 1977, in _exec_single_context
    self.dialect.do_execute(
  File "/srv/lib/sqlalchemy/engine/default.py", line 1192, in do_execute
    cursor.execute(statement, parameters)
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 671, in execute
    await_(self._prepare_and_execute(operation, parameters))
  File "/srv/lib/sqlalchemy/util/concurrency.py", line 171, in await_
    return current.parent.switch(awaitable)  # type: ignore[no-any-return]
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/util/concurrency.py", line 209, in greenlet_spawn
    value = await result
            ^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 633, in _prepare_and_execute
    self._handle_exception(error)
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 583, in _handle_exception
    self._adapt_connection._handle_exception(error)
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 862, in _handle_exception
    super()._handle_exception(error)
  File "/srv/lib/sqlalchemy/connectors/asyncio.py", line 412, in _handle_exception
    self._handle_exception_no_connection(self.dbapi, error)
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 855, in _handle_exception_no_connection
    raise translated_error from error
sqlalchemy.dialects.postgresql.asyncpg.AsyncAdapt_asyncpg_dbapi.ForeignKeyViolationError: insert or update on table "task" violates foreign key constraint "fk_task_project_id_project"

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/srv/app/ledgerq/database/sqlstate.py", line 107, in translated
    yield
  File "/srv/app/ledgerq/store/writes.py", line 67, in flush
    await session.flush()
  File "/srv/app/ledgerq/database/session.py", line 250, in guarded
    return await method(self, *args, **kwargs)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/ext/asyncio/session.py", line 1031, in flush
    await greenlet_spawn(self.sync_session.flush, objects=objects)
  File "/srv/lib/sqlalchemy/util/concurrency.py", line 216, in greenlet_spawn
    result = context.switch(value)
             ^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/orm/session.py", line 4626, in flush
    self._flush(objects)
  File "<sqlalchemy generated warned() wrapper for sqlalchemy.orm.session.Session._flush>", line 2, in _flush
    return target(fn, self, objects=objects)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/util/deprecations.py", line 281, in warned
    return fn(*args, **kwargs)  # type: ignore[no-any-return]
           ^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/orm/session.py", line 4769, in _flush
    with util.safe_reraise():
  File "/srv/lib/sqlalchemy/util/langhelpers.py", line 166, in __exit__
    raise exc_value.with_traceback(exc_tb)
  File "/srv/lib/sqlalchemy/orm/session.py", line 4730, in _flush
    flush_context.execute()
  File "/srv/lib/sqlalchemy/orm/unitofwork.py", line 467, in execute
    rec.execute(self)
  File "/srv/lib/sqlalchemy/orm/unitofwork.py", line 643, in execute
    util.preloaded.orm_persistence._save_obj(
  File "/srv/lib/sqlalchemy/orm/persistence.py", line 92, in _save_obj
    _emit_insert_statements(
  File "/srv/lib/sqlalchemy/orm/persistence.py", line 1250, in _emit_insert_statements
    result = connection.execute(
             ^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/engine/base.py", line 1494, in execute
    return meth(
           ^^^^^
  File "/srv/lib/sqlalchemy/sql/elements.py", line 534, in _execute_on_connection
    return connection._execute_clauseelement(
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/engine/base.py", line 1714, in _execute_clauseelement
    ret = self._execute_context(
          ^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/engine/base.py", line 1868, in _execute_context
    return self._exec_single_context(
           ^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/engine/base.py", line 1996, in _exec_single_context
    self._handle_dbapi_exception(
  File "/srv/lib/sqlalchemy/engine/base.py", line 2351, in _handle_dbapi_exception
    raise sqlalchemy_exception.with_traceback(exc_info[2]) from e
  File "/srv/lib/sqlalchemy/engine/base.py", line 1977, in _exec_single_context
    self.dialect.do_execute(
  File "/srv/lib/sqlalchemy/engine/default.py", line 1192, in do_execute
    cursor.execute(statement, parameters)
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 671, in execute
    await_(self._prepare_and_execute(operation, parameters))
  File "/srv/lib/sqlalchemy/util/concurrency.py", line 171, in await_
    return current.parent.switch(awaitable)  # type: ignore[no-any-return]
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/util/concurrency.py", line 209, in greenlet_spawn
    value = await result
            ^^^^^^^^^^^^
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 633, in _prepare_and_execute
    self._handle_exception(error)
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 583, in _handle_exception
    self._adapt_connection._handle_exception(error)
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 862, in _handle_exception
    super()._handle_exception(error)
  File "/srv/lib/sqlalchemy/connectors/asyncio.py", line 412, in _handle_exception
    self._handle_exception_no_connection(self.dbapi, error)
  File "/srv/lib/sqlalchemy/dialects/postgresql/asyncpg.py", line 855, in _handle_exception_no_connection
    raise translated_error from error
sqlalchemy.exc.IntegrityError: (sqlalchemy.dialects.postgresql.asyncpg.ForeignKeyViolationError) insert or update on table "task" violates foreign key constraint "fk_task_project_id_project"
[SQL: INSERT INTO task (title, description, status, priority, tags, project_id, assignee_id, created_by_id, parent_task_id, due_at, version, deleted_at) VALUES ($1::VARCHAR, $2::VARCHAR, $3, $4, $5::JSONB, $6::BIGINT, $7::BIGINT, $8::BIGINT, $9::BIGINT, $10::TIMESTAMP WITH TIME ZONE, $11::INTEGER, $12::TIMESTAMP WITH TIME ZONE) RETURNING task.id, task.created_at, task.updated_at]
[SQL parameters hidden due to hide_parameters=True]
(Background on this error at: https://sqlalche.me/e/21/gkpj)

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
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
  File "/srv/app/ledgerq/store/writes.py", line 66, in flush
    with translated():
  File "/usr/lib/python3.11/contextlib.py", line 158, in __exit__
    self.gen.throw(typ, value, traceback)
  File "/srv/app/ledgerq/database/sqlstate.py", line 114, in translated
    raise ours from error
ledgerq.errors.data.MissingReference: project_id: points at a row that does not exist
', 1, '2026-11-26 06:16:58.941584+00', 'ada', 't-1', '[{"at": "2026-11-26T06:16:58.895+00:00", "error": "MissingReference: project_id: points at a row that does not exist", "worker": "", "attempt": 1}]', '', '4a620d90443fbee9');

INSERT INTO public.outbox_message VALUES (1, 'waits', 'create_task', '{"title": "Waits", "project_id": 1}', 'bob', 't-2', 'k', '2026-11-26 06:16:59.14556+00', 0, '2026-11-26 06:16:59.14556+00');
INSERT INTO public.outbox_message VALUES (2, 'later', 'create_task', '{"title": "Later", "project_id": 1}', 'unknown', NULL, NULL, '2035-02-12 06:16:59.277141+00', 0, '2026-11-26 06:16:59.14556+00');

INSERT INTO public.processed_job VALUES ('project', 'create_project', '\x81181f7eb070e7e5d4f16e0eee38d39c4dcdbf55b0b549510bd6e9ed2053d50c', '1', '2026-11-26 06:16:58.227629+00', 'done', 1);
INSERT INTO public.processed_job VALUES ('worker', 'create_worker', '\x9ff8344492328ddf8b869b04f846e8e88c196eba16d7c541c39c37b465936eef', '1', '2026-11-26 06:16:58.428673+00', 'done', 1);
INSERT INTO public.processed_job VALUES ('task', 'create_task', '\x13c1dcfa32545240a2a61287dd0d917f0de85f44c0b86f8900188816b6730e7a', '1', '2026-11-26 06:16:58.555591+00', 'done', 1);
INSERT INTO public.processed_job VALUES ('subtask', 'create_task', '\xb99f8ed0a5623e08b5ec8ad3f75819c231748f9789aa8bb8b99a18eda1384a8f', '2', '2026-11-26 06:16:58.600834+00', 'done', 1);
INSERT INTO public.processed_job VALUES ('gone', 'delete_task', '\x7935ddc6394ff3a9a63855b9fc390bee0e604382c8dc87c4b0d9323c6cb4123a', '[2]', '2026-11-26 06:16:58.689711+00', 'done', 1);
INSERT INTO public.processed_job VALUES ('dead', 'create_task', '\x386aedac7d6376b4d105d5b38808236bf1a16baa9e7c02eb1abaa9f6d24ca637', NULL, '2026-11-26 06:16:58.941584+00', 'dead', 1);
INSERT INTO public.processed_job VALUES ('discarded', 'create_task', '\x70573f9a19fa25b81b378c38cb2ae8053ada492d85e2627e141f2b2bc49cf6a6', NULL, '2026-11-26 06:16:59.111064+00', 'dead', 1);
INSERT INTO public.processed_job VALUES ('cancelled', 'unknown', '\x', NULL, '2026-11-26 06:16:59.302108+00', 'cancelled', NULL);

INSERT INTO public.project VALUES (1, 'LCH', 'Launch', NULL, 1, '2026-11-26 06:16:58.227629+00', '2026-11-26 06:16:58.227629+00');

INSERT INTO public.task VALUES (1, 'Write', NULL, 'todo', 'normal', '["a"]', 1, 1, NULL, NULL, NULL, 1, '2026-11-26 06:16:58.555591+00', '2026-11-26 06:16:58.555591+00', NULL);
INSERT INTO public.task VALUES (2, 'Read', NULL, 'todo', 'normal', '[]', 1, NULL, NULL, 1, NULL, 2, '2026-11-26 06:16:58.600834+00', '2026-11-26 06:16:58.689711+00', '2026-11-26 06:16:58.696876+00');

INSERT INTO public.unique_key VALUES ('create_task', 'one', 'later', '2035-02-12 06:16:59.240584+00');

INSERT INTO public.worker VALUES (1, 'Ada', 'person', 1, '2026-11-26 06:16:58.428673+00', '2026-11-26 06:16:58.428673+00');

SELECT pg_catalog.setval('public.audit_log_id_seq', 7, true);

SELECT pg_catalog.setval('public.dead_letter_id_seq', 2, true);

SELECT pg_catalog.setval('public.outbox_message_seq_seq', 2, true);

SELECT pg_catalog.setval('public.project_id_seq', 1, true);

SELECT pg_catalog.setval('public.task_id_seq', 4, true);

SELECT pg_catalog.setval('public.worker_id_seq', 1, true);

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT pk_audit_log PRIMARY KEY (id);

ALTER TABLE ONLY public.dead_letter
    ADD CONSTRAINT pk_dead_letter PRIMARY KEY (id);

ALTER TABLE ONLY public.outbox_message
    ADD CONSTRAINT pk_outbox_message PRIMARY KEY (seq);

ALTER TABLE ONLY public.processed_job
    ADD CONSTRAINT pk_processed_job PRIMARY KEY (job_id);

ALTER TABLE ONLY public.project
    ADD CONSTRAINT pk_project PRIMARY KEY (id);

ALTER TABLE ONLY public.task
    ADD CONSTRAINT pk_task PRIMARY KEY (id);

ALTER TABLE ONLY public.unique_key
    ADD CONSTRAINT pk_unique_key PRIMARY KEY (kind, key);

ALTER TABLE ONLY public.worker
    ADD CONSTRAINT pk_worker PRIMARY KEY (id);

ALTER TABLE ONLY public.dead_letter
    ADD CONSTRAINT uq_dead_letter_job_id UNIQUE (job_id);

ALTER TABLE ONLY public.outbox_message
    ADD CONSTRAINT uq_outbox_message_job_id UNIQUE (job_id);

ALTER TABLE ONLY public.project
    ADD CONSTRAINT uq_project_key UNIQUE (key);

ALTER TABLE ONLY public.task
    ADD CONSTRAINT uq_task_project_id_id UNIQUE (project_id, id);

CREATE INDEX ix_audit_log_entity ON public.audit_log USING btree (entity_type, entity_id, id);

CREATE INDEX ix_audit_log_job_id ON public.audit_log USING btree (job_id);

CREATE INDEX ix_dead_letter_buried_at ON public.dead_letter USING btree (buried_at);

CREATE INDEX ix_dead_letter_fingerprint ON public.dead_letter USING btree (fingerprint);

CREATE INDEX ix_outbox_message_due ON public.outbox_message USING btree (next_dispatch_at, seq);

CREATE INDEX ix_outbox_message_ordering ON public.outbox_message USING btree (ordering_key, seq) WHERE (ordering_key IS NOT NULL);

CREATE INDEX ix_processed_job_processed_at ON public.processed_job USING brin (processed_at);

CREATE INDEX ix_task_assignee_id_id ON public.task USING btree (assignee_id, id);

CREATE INDEX ix_task_created_by_id ON public.task USING btree (created_by_id);

CREATE INDEX ix_task_deleted_at ON public.task USING btree (deleted_at) WHERE (deleted_at IS NOT NULL);

CREATE INDEX ix_task_due_at_id ON public.task USING btree (due_at, id) WHERE (deleted_at IS NULL);

CREATE INDEX ix_task_parent_task_id ON public.task USING btree (parent_task_id);

CREATE INDEX ix_task_tags ON public.task USING gin (tags jsonb_path_ops);

CREATE INDEX ix_unique_key_expires_at ON public.unique_key USING btree (expires_at);

CREATE INDEX ix_unique_key_job_id ON public.unique_key USING btree (job_id);

CREATE TRIGGER audit_log_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION public.audit_log_refuse();

ALTER TABLE public.audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;

CREATE TRIGGER outbox_message_notify AFTER INSERT ON public.outbox_message FOR EACH STATEMENT EXECUTE FUNCTION public.outbox_message_notify();

CREATE TRIGGER project_touch_updated_at BEFORE UPDATE ON public.project FOR EACH ROW EXECUTE FUNCTION public.touch_updated_at();

CREATE TRIGGER task_touch_updated_at BEFORE UPDATE ON public.task FOR EACH ROW EXECUTE FUNCTION public.touch_updated_at();

CREATE TRIGGER worker_touch_updated_at BEFORE UPDATE ON public.worker FOR EACH ROW EXECUTE FUNCTION public.touch_updated_at();

ALTER TABLE ONLY public.task
    ADD CONSTRAINT fk_task_assignee_id_worker FOREIGN KEY (assignee_id) REFERENCES public.worker(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.task
    ADD CONSTRAINT fk_task_created_by_id_worker FOREIGN KEY (created_by_id) REFERENCES public.worker(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.task
    ADD CONSTRAINT fk_task_parent_task_id_task FOREIGN KEY (parent_task_id, project_id) REFERENCES public.task(id, project_id);

ALTER TABLE ONLY public.task
    ADD CONSTRAINT fk_task_project_id_project FOREIGN KEY (project_id) REFERENCES public.project(id);

REVOKE ALL ON FUNCTION public.canonical_payload(value jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION public.enqueue_job(kind text, payload jsonb, job_id text, actor text, run_at timestamp with time zone, ordering_key text, trace_id text) FROM PUBLIC;

GRANT SELECT ON TABLE public.audit_log TO {writer};

GRANT SELECT,INSERT ON TABLE public.outbox_message TO {writer};

GRANT EXECUTE ON FUNCTION public.enqueue_job(text, jsonb, text, text, timestamptz, text, text) TO {writer};
