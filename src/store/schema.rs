//! The schema and its migrations: one folder of them for both databases, compiled in.

use sqlx::migrate::{Migrate, MigrateError, Migrator};

use super::StoreError;

/// Brings an empty database up to date.
#[cfg(test)]
pub(super) async fn migrated(conn: &mut sqlx::SqliteConnection) {
    migrations().run_direct(None, conn, false).await.unwrap();
}

/// The migrations, compiled in. A database that is ahead of them is a newer replica's work, and is left alone.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("./migrations");
    migrations.set_ignore_missing(true);
    migrations
}

/// Their versions.
pub(super) fn known_migrations() -> Vec<i64> {
    migrations().iter().map(|one| one.version).collect()
}

/// Why the schema is not what this version needs.
pub(super) enum Unprepared {
    Behind(usize),
    Failed(String),
}

impl Unprepared {
    /// The same of the database at `url`.
    pub fn named(self, url: &str) -> StoreError {
        match self {
            Self::Behind(count) => StoreError::NeedsMigration(count),
            Self::Failed(reason) => StoreError::Open { url: url.to_owned(), reason },
        }
    }
}

/// Brings the schema up to date, or says by how much it is behind.
pub(super) async fn prepare<C>(conn: &mut C, migrate: bool) -> Result<(), Unprepared>
where
    C: Migrate,
{
    let failed = |e: MigrateError| Unprepared::Failed(e.to_string());
    let migrations = migrations();
    if migrate {
        return migrations.run_direct(None, conn, false).await.map_err(failed);
    }
    conn.ensure_migrations_table(&migrations.table_name).await.map_err(failed)?;
    let applied = conn.list_applied_migrations(&migrations.table_name).await.map_err(failed)?;
    let behind =
        migrations.iter().filter(|one| !applied.iter().any(|done| done.version == one.version)).count();
    if behind == 0 { Ok(()) } else { Err(Unprepared::Behind(behind)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database remembers the digests of its migrations and refuses others: one that was ever released never changes, not
    /// by a space. What it should have said differently is said by a new one.
    #[test]
    fn a_migration_is_never_changed() {
        const RELEASED: [(i64, &str); 11] = [
            (1, "7247630f464da611"),
            (2, "9d07ba5e486c0e3b"),
            (4, "ef64ea24386d990a"),
            (5, "a9b499358f6cbcbe"),
            (6, "b009472630d72d14"),
            (7, "49db79575342e435"),
            (8, "70e739fcb55ffbc4"),
            (9, "2afc12f8a4c00c79"),
            (10, "65e1051c98464544"),
            (11, "24204989fb79a528"),
            (12, "458dc77319c00015"),
        ];
        let migrations = migrations();
        for (version, digest) in RELEASED {
            let known = migrations.iter().find(|one| one.version == version);
            let found = known.map(|one| hex::encode(&one.checksum[..8]));
            assert_eq!(found.as_deref(), Some(digest), "migration {version}");
        }
    }
}
