from nlnet.cli.regions import main

if __name__ == "__main__":
    main()
