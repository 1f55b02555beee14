CREATE ROLE mlops LOGIN PASSWORD '${password}';
ALTER ROLE mlops PASSWORD '${password}';
CREATE DATABASE mlflow OWNER mlops;
CREATE DATABASE feast OWNER mlops;
CREATE DATABASE airflow OWNER mlops;
