"""Rolling features as a job of Spark Structured Streaming: events are counted by tile, and closed tiles are summed by window.

`python job.py DEFINITION EVENTS OUT`: a definition as bench_spark.py writes it, a folder of Parquet files with events, each a
micro-batch, and a folder for `tiles`, `features` and the state of the stream. It needs Java and pyspark, and no other package.
"""

import json
import sys
import time
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F


def session(
    scratch: Path,  # for what does not fit into memory
) -> SparkSession:
    "A Spark on this machine alone, with two threads."
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "1g",
        # a job of a minute is over before the second compiler has repaid its work
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "spark.local.dir": str(scratch),
        "spark.log.level": "ERROR",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",  # the default, 200, is for a cluster
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def counted(
    events: DataFrame,  # a stream
    definition: dict,
) -> DataFrame:
    "Events of each entity by tile, a column for each type. A row comes when the watermark has passed the tile's end, once."
    entity, moment, tile = definition["entity"], definition["time"], definition["tile"]
    each = [F.count_if(F.col(definition["type"]) == what).alias(what) for what in definition["types"]]
    known = events.withWatermark(moment, f"{definition['lateness']} seconds")
    tiles = known.groupBy(entity, F.window(moment, f"{tile} seconds")).agg(*each)
    return tiles.select(entity, F.floor(F.unix_seconds("window.start") / tile).alias("tile"), *definition["types"])


def summed(
    tiles: DataFrame,  # closed ones
    definition: dict,
) -> DataFrame:
    "The features of each entity as of the end of each of its tiles; a rate of nothing is null."

    def count(what: str, window: int) -> Column:
        past = Window.partitionBy(definition["entity"]).orderBy("tile").rangeBetween(1 - window // definition["tile"], 0)
        return F.sum(what).over(past)

    features = []
    for name, feature in definition["features"].items():
        value = count(feature["count"], feature["window"])
        if feature["over"]:
            value = value / F.nullif(count(feature["over"], feature["window"]), F.lit(0))
        features.append(value.alias(name))
    return tiles.select(definition["entity"], "tile", *features)


def run(spark: SparkSession, definition: dict, events: Path, out: Path) -> int:
    "Stream the files, the oldest first, until all were read. The number of micro-batches."
    reach = max(feature["window"] for feature in definition["features"].values()) // definition["tile"]

    def keep(closed: DataFrame, batch: int) -> None:
        "Write tiles that have closed and the features as of them; over what is there, as a batch may come twice after a failure."
        closed.persist()  # else each use of it would count the batch again
        first = closed.agg(F.min("tile")).first()[0]
        if first is not None:
            closed.write.mode("overwrite").parquet(f"{out}/tiles/batch={batch}")
            within = spark.read.parquet(f"{out}/tiles").where(F.col("tile") > first - reach)
            # all tiles of earlier batches are older: the watermark closes them in their order
            new = summed(within, definition).where(F.col("tile") >= first)
            new.write.mode("overwrite").parquet(f"{out}/features/batch={batch}")
        closed.unpersist()

    schema = spark.read.parquet(str(events)).schema
    stream = spark.readStream.schema(schema).option("maxFilesPerTrigger", 1).parquet(str(events))
    writer = counted(stream, definition).writeStream.foreachBatch(keep).outputMode("append")
    query = writer.option("checkpointLocation", f"{out}/checkpoint").trigger(availableNow=True).start()
    query.awaitTermination()
    return query.lastProgress["batchId"] + 1


if __name__ == "__main__":
    definition, events, out = (Path(word) for word in sys.argv[1:])
    spark = session(out / "scratch")
    ready = time.time()
    batches = run(spark, json.loads(definition.read_text(encoding="utf-8")), events, out)
    done = time.time()
    java = spark.sparkContext._jvm.java.lang.System.getProperty("java.version")
    print(json.dumps({"ready": ready, "done": done, "batches": batches, "versions": f"Spark {spark.version}, Java {java}"}))
    spark.stop()
